"""A run is resumed with its configuration, or refused with the differences."""

import dataclasses
import json

import pytest

from zoo_exp.config import compose
from zoo_exp.config.identity import FREE, LATER_FIELDS, MODEL_FIELDS
from zoo_exp.config.schema import ModelConfig
from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.runs import folder, manifest

IDS = [
    *("185fc2e5016d", "672ade0af599", "c14cd3f67a4e", "48a052475b5e", "c968ddae3185", "794ef25fd017"),
    *("6d0468e82966", "7ac2cf92e31c", "fba1a2510a7c"),
]
CELL = "09ebf8e4e016"
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
        ("selector=[full,zoo,divprune]", "arms: divprune @16 was added"),
        ("selector=full", "arms: zoo multiply @16 was removed"),
        ("data.root=elsewhere", 'data.root: null -> "elsewhere"'),
    ],
)
def test_what_changes_records_is_refused_and_shown(begun, change, shown):
    with pytest.raises(InvalidValueError) as refusal:
        manifest.check(begun, compose([*BASE, change]))
    assert f"\n  {shown}\n" in str(refusal.value)
    assert "out=DIR" in str(refusal.value)


def test_a_folder_without_a_manifest_is_treated_as_new(tmp_path):
    manifest.check(tmp_path, compose(BASE))
    (tmp_path / folder.EXPERIMENT).write_text("{")
    manifest.check(tmp_path, compose(BASE))


def test_the_manifest_has_configuration_versions_and_device(begun):
    content = json.loads((begun / folder.EXPERIMENT).read_text())
    assert content["experiment"]["tasks"] == ["embedded_pope"]
    assert content["attention"] == "sdpa"
    assert content["provenance"] == {"python": "3"}
    assert content["device"]
    assert set(content["data"]) == {"embedded_pope"}
    assert (begun / "config.yaml").read_text() == compose(BASE).to_yaml()


def test_every_field_of_the_model_is_either_part_of_a_records_identity_or_free():
    """A new field must be put on one of the two sides, here too."""
    free = {"name", "device_map", "batch_size", "n_visual", "budgets", "image_budgets", "zoo"}
    free |= {"default_tasks", "default_limit", "checkpoint"}
    identity = {"family", "path", "revision", "dtype", "attention", "weights", "layers"}
    identity |= {"clip", "prompts", "trust_remote_code", "min_pixels", "max_pixels", "protocol"}
    assert identity == {*MODEL_FIELDS, *LATER_FIELDS}
    assert {f"model.{name}" for name in free} == {key for key in FREE if key.startswith("model.")}
    assert free | identity == {field.name for field in dataclasses.fields(ModelConfig)}


def test_ids_equal_those_of_version_1():
    """Records of earlier versions belong to the same cells and arms."""
    experiment = compose(["selector=[full,zoo,random]", "budget=[16,0.5]", "task=embedded_pope"])
    ids = [arm.id for arm in experiment.arms]
    assert ids == IDS
    from zoo_exp.config import identity

    more = ["selector.options.control=shuffled", "budget=16", "task=embedded_pope"]
    (shuffled,) = compose(["selector=zoo", *more]).arms
    assert shuffled.id not in IDS
    fixed = dataclasses.replace(experiment.model, path="nowhere/model")
    assert identity.cell_id(fixed, "embedded_pope", 0) == CELL


@pytest.mark.parametrize(
    "content", ["[]", "3", '{"experiment": "x"}', "[" * 100_000, '{"experiment": {"name": "x"}}']
)
def test_a_damaged_manifest_is_named(tmp_path, content):
    (tmp_path / folder.EXPERIMENT).write_text(content)
    with pytest.raises(MissingFileError, match=r"experiment\.json is damaged"):
        manifest.read(tmp_path)
    assert manifest.arms(tmp_path) == []


@pytest.mark.parametrize("content", ["[]", "3", '{"experiment": "x"}', "[" * 100_000])
def test_a_damaged_manifest_is_rewritten(tmp_path, content):
    (tmp_path / folder.EXPERIMENT).write_text(content)
    manifest.write(tmp_path, compose(BASE), {})
    assert manifest.read(tmp_path)["experiment"]["tasks"] == ["embedded_pope"]
