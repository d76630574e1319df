"""Graphs of fixed shapes, one for each route and role, for providers that compile ahead (design section 8)."""
