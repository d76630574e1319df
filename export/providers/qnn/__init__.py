"""Quantised activations and compiled binaries for Qualcomm's HTP."""
