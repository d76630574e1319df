"""The bundle format: manifest, schema, integrity checks."""
