"""Keep other libraries' advice off the screen; their errors still show."""

import logging
import os
import warnings


def quieten() -> None:
    """Silence Lightning's tips and deprecation notes of what it calls; call it before torch is imported."""
    # torch's DDP warns that an option which one stage needs is idle in another.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
