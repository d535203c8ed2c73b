"""Numbers with intervals, from records."""
