"""Encoder graphs: pictures and sounds become feature rows of the decoder."""
