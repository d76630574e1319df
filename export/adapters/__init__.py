"""Adapters of users: added to a bundle, removed, merged, packed. The base weights do not change."""
