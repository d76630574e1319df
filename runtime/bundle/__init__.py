"""Bundle format: manifest, schema, integrity checks."""
