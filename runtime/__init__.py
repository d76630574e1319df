"""Runtime of a bundle: opening, prompt building, media, decoding."""
