"""Model families, pruned prompts, and pruning inside a running model."""
