"""Graphs for execution providers that compile ahead: fixed shapes, QNN, OpenVINO."""
