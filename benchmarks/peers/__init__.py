"""palmtop against other runtimes on one machine, in one run: ``python -m benchmarks.peers``."""
