"""Memory of a session: the plan before loading, what the machine has, mapped pages."""
