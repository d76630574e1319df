"""Sound files to log-mel frames: one file for each container family and each kind of audio processor."""
