"""What a reader sees of a run: tables, figures, mask galleries and the HTML page, all computed from records."""
