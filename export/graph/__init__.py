"""Pieces that architectures are composed of, as ONNX graphs."""
