"""From cells to records: one vision pass per batch, then every arm; journals that survive whatever happens."""
