"""Scoring functions that several tasks share: strings in, numbers out."""
