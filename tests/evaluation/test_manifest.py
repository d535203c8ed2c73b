"""A half-done run goes on with the configuration it was begun with, or says what is different."""

import json

import pytest

from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError
from zoo_exp.runs import manifest

BASE = ["selector=[full,zoo]", "budget=16", "task=embedded_pope", "limit=4"]


@pytest.fixture
def begun(tmp_path):
    manifest.write(tmp_path, compose(BASE), {"python": "3"})
    return tmp_path


@pytest.mark.parametrize(
    "harmless",
    [
        "model.batch_size=1",
        "trainer=ddp",
        "logger=none",
        "out=elsewhere",
        "data.workers=2",
        "cache.features=x",
    ],
)
def test_what_changes_no_record_may_change(begun, harmless):
    manifest.check(begun, compose([*BASE, harmless]))


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ("seed=1", "seed: 0 -> 1"),
        ("model.dtype=bfloat16", 'model.dtype: "float32" -> "bfloat16"'),
        ("budget=8", 'arms[1].budget: "16" -> "8"'),
        ("selector=[full,divprune]", 'arms[1].selector: "zoo" -> "divprune"'),
        ("selector=[full,zoo,divprune]", "arms: divprune @16 is new"),
        ("selector=full", "arms: zoo multiply @16 is gone"),
        ("data.root=elsewhere", 'data.root: null -> "elsewhere"'),
    ],
)
def test_what_changes_records_is_refused_and_shown(begun, change, shown):
    with pytest.raises(InvalidValueError) as refusal:
        manifest.check(begun, compose([*BASE, change]))
    assert f"\n  {shown}\n" in str(refusal.value)
    assert "out=DIR" in str(refusal.value)


def test_a_folder_without_a_manifest_is_new(tmp_path):
    manifest.check(tmp_path, compose(BASE))
    (tmp_path / manifest.FILE).write_text("{")
    manifest.check(tmp_path, compose(BASE))


def test_it_says_what_made_the_records(begun):
    content = json.loads((begun / manifest.FILE).read_text())
    assert content["experiment"]["tasks"] == ["embedded_pope"]
    assert content["attention"] == "sdpa"
    assert content["provenance"] == {"python": "3"}
    assert content["device"]
    assert set(content["data"]) == {"embedded_pope"}
    assert (begun / "config.yaml").read_text() == compose(BASE).to_yaml()
