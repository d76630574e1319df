"""Sound files to log-mel frames: one file for each kind of audio processor."""
