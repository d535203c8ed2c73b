"""Pure scoring functions, one module per rule: strings in, numbers out (spec: benchmarks 1 to 9)."""
