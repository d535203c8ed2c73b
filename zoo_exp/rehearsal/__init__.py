"""The rehearsal: every experiment end to end on slim checkpoints and made-up data, before anyone has the real ones."""
