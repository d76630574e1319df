"""Execution providers: assignment of graphs, plugins, decoders and encoders of fixed shapes."""
