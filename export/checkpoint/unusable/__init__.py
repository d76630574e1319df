"""Files that are not a float checkpoint's: pointers, web pages, and quantised weights."""
