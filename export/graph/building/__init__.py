"""Tools for building every layer: graph builder, marks of linears, contexts, sources."""
