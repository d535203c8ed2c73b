"""The page that a report is read as: one file, no network, everything escaped."""
