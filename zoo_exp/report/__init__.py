"""What the user reads: tables, intervals, pictures and W&B, all computed from records."""
