"""Verdicts: each file takes what was measured or stored and says, check by check, whether it is right."""
