"""Decoder graphs of fixed shapes, one for each route and role."""
