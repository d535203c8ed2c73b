"""What every test starts from."""

import sys

import pytest


@pytest.fixture(autouse=True)
def rank_zero():
    """Lightning keeps the rank of the process in a global; a test that plays another rank must not leave it behind."""
    yield
    for name in ("lightning_utilities.core.rank_zero", "lightning.fabric.utilities.rank_zero"):
        module = sys.modules.get(name)
        if module is not None:
            module.rank_zero_only.rank = 0
