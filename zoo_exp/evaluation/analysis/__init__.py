"""Studies of selectors that need no answers of the language model."""
