"""Weights & Biases: live values, final tables, mask images, reports."""
