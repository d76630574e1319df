"""Quantise weights to blocks of few bits, in the layouts that onnxruntime's kernels read."""
