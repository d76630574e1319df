"""Time, memory and disk of an export, estimated before it starts."""
