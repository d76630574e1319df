"""Memory of a session: the plan before loading, available memory, mapped pages."""
