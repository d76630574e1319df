"""Files that hold a conversation with everything that was computed for it."""
