"""The model and the nine small benchmarks that ship inside the package."""
