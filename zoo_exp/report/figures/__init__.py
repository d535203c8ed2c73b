"""The pictures of a report: one file each, one style for all (`style.py`)."""
