"""Suppress informational output of other libraries; errors are still shown."""

import logging
import os
import warnings


def quieten() -> None:
    """Suppress Lightning's tips and deprecation warnings; call it before torch is imported."""
    # torch's DDP warns about an option that only one of the stages needs.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
