"""Adapters of one's own: brought into a bundle, taken out, merged, shipped alone. The base weights stay as they are."""
