"""Checks: each file compares measured or stored values with their limits."""
