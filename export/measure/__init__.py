"""Samples run through float and quantised graphs, and the distances between their logits."""
