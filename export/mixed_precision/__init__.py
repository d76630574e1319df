"""Bits and group size of every tensor: sensitivity, allocation, sequential quantisation."""
