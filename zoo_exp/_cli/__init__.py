"""One file per command: `add_arguments(parser)`, and a module docstring that is its help."""
