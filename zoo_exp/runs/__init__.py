"""The run folder: records, timings and masks, journals, merge, manifest, locks, resume."""
