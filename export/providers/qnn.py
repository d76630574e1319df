"""Graphs for NPUs: fixed shapes, quantised activations, compiled ahead for a system on chip (docs/npu.md)."""
