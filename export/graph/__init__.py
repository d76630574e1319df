"""Kinds of layers and encoders as ONNX graphs, which architectures are composed of."""
