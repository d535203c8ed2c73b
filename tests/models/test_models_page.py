"""docs/models.md equals the behaviour of the models."""

import pytest
import transformers
from models_page import PAGE, row
from test_generic_families import QUICK, TYPES
from tiny_changes import CANNOT_BE_BUILT
from tiny_videos import VIDEO_TYPES

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


def test_the_head_says_what_the_rows_say_of_videos():
    lines = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    head = {c[0].split("`")[1]: c[2].strip() for c in lines if len(c) == 8 and "(`" in c[0]}
    rows = {c[0].strip(" `"): c[7].strip() for c in lines if len(c) == 9}
    says = {"tested": "identical", "frames as images": "as images", "no": "-"}
    assert len(head) >= 10
    assert all(rows[name].startswith(says[video]) for name, video in head.items() if name in rows)
    assert {name for name, video in head.items() if video == "tested"} <= set(VIDEO_TYPES)


def test_every_type_is_on_the_page():
    text = PAGE.read_text()
    if not current(text):
        pytest.skip("the page was written with another version of transformers")
    listed = [line.split("`")[1] for line in text.splitlines() if line.startswith("| `")]
    assert sorted(listed) == sorted([*TYPES, *CANNOT_BE_BUILT, *REFUSED])
    assert "DIFFERS" not in text


def test_the_head_says_which_families_vllm_takes():
    lines = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    tested = {c[0].split("`")[1] for c in lines if len(c) == 8 and c[7].strip() == "tested"}
    page = (PAGE.parent / "vllm.md").read_text().split("## Families")[1].split("\n## ")[0]
    assert tested == {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
