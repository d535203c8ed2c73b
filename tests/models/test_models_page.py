"""docs/models.md equals the behaviour of the models."""

import pytest
import transformers
from models_page import PAGE, row
from test_generic_families import QUICK, TYPES
from tiny_changes import CANNOT_BE_BUILT

from zoo_exp.models.generic_support import REFUSED


def current(text):
    """Whether the page was written with the transformers that is installed."""
    return f"transformers {transformers.__version__}." in text


@pytest.mark.parametrize("model_type", QUICK)
def test_a_row_is_what_is_measured(model_type):
    text = PAGE.read_text()
    if not current(text):
        pytest.skip("the page was written with another version of transformers")
    assert row(model_type) in text.splitlines()


def test_every_type_is_on_the_page():
    text = PAGE.read_text()
    if not current(text):
        pytest.skip("the page was written with another version of transformers")
    listed = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted([*TYPES, *CANNOT_BE_BUILT, *REFUSED])
    assert "DIFFERS" not in text
