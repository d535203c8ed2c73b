"""The run folder: records, timings, masks, journals, merging, manifest, locks and resuming."""
