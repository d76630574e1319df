"""Encoder graphs: images and sounds to feature rows of the decoder."""
