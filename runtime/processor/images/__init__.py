"""Image files to tiles: one file for each kind of image processor."""
