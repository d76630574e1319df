"""The files of a bundle as they are written: external data, manifest, journal, atomic folder."""
