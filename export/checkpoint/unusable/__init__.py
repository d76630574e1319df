"""Files that do not hold what a checkpoint should: pointers and web pages in their place, weights quantised already."""
