"""What every layer is built with: graph builder, marks of linears, contexts, sources."""
