"""Parts of the dialogue in a terminal: lines with completion, and attached files."""
