"""Forms in which callers give questions and options, also those of other libraries."""
