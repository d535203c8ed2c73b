"""Metrics with confidence intervals, computed from records."""
