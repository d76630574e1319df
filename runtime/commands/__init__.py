"""Subcommands that need only the runtime, one file each; ``palmtop.__main__`` lists them."""
