"""An experiment as a SLURM array: one index per cell, resubmitting what is missing."""
