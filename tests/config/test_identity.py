"""Ids change with everything that affects records, and with nothing else."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from zoo_exp.config import compose
from zoo_exp.config.identity import LENGTH, cell_id, digest, weights_fingerprint, weights_id
from zoo_exp.config.schema import ModelConfig
from zoo_exp.selectors.cdpruner import CDPruner
from zoo_exp.selectors.vispruner import VisPruner

BASE = ["+exp=ablation_fusion", "task=[embedded_pope,embedded_mme]"]


def ids(*overrides):
    experiment = compose([*BASE, *overrides])
    return [cell.id for cell in experiment.cells()], {arm.label: arm.id for arm in experiment.arms}


@pytest.mark.parametrize(
    "override",
    ["out=elsewhere", "limit=3", "logger=none", "trainer=ddp", "model.batch_size=1", "model.device_map=auto",
     "data.workers=2", "data.root=somewhere", "question='why?'",
     "cache.features=somewhere", "cache.limit_gb=3"],
)  # fmt: skip
def test_ids_do_not_depend_on_where_and_how_it_runs(override):
    assert ids(override) == ids()
    same_folder = compose([*BASE, override]).id == compose(BASE).id
    assert same_folder == (override != "limit=3")  # another limit is another table of the same records


@pytest.mark.parametrize(
    "override",
    ["seed=1", "model.dtype=bfloat16", "model.layers=2", "model.weights=random", "model.revision=abc",
     "model.attention=eager", "model.path=elsewhere"],
)  # fmt: skip
def test_what_changes_every_record_changes_every_cell_and_no_arm(override):
    cells, arms = ids()
    changed, same = ids(override)
    assert not set(cells) & set(changed)
    assert arms == same


def test_cells_differ_by_task():
    cells, _ = ids()
    assert len(set(cells)) == 2


def test_an_option_changes_its_own_arm_only(tmp_path):
    (tmp_path / "exp").mkdir()

    def arms(fusion):
        text = f"arms:\n  - selector: full\n  - {{selector: zoo, label: ours, options: {fusion}}}\n"
        (tmp_path / "exp" / "mine.yaml").write_text(text)
        return {arm.label: arm.id for arm in compose(["+exp=mine", "budget=[16,8]"], [tmp_path]).arms}

    before, after = arms("{fusion: sum}"), arms("{fusion: none}")
    assert before["full"] == after["full"]
    assert {label for label in before if before[label] != after[label]} == {"ours @16", "ours @8"}


def test_an_explicit_default_is_the_same_arm():
    def arm(*options):
        return compose(["selector=zoo", "budget=16", *options]).arms[0].id

    assert arm() == arm("selector.options.n_directions=64")
    assert arm() != arm("selector.options.n_directions=32")


def test_arms_differ_by_budget_and_repetition():
    _, arms = ids()
    assert len(set(arms.values())) == len(arms)


def test_ids_do_not_depend_on_labels():
    named = compose(["selector=zoo", "budget=16", "selector.label=ours"])
    assert named.arms[0].id == compose(["selector=zoo", "budget=16"]).arms[0].id
    assert named.arms[0].label == "ours @16"


def test_ids_depend_on_the_content_of_weights(tmp_path):
    model = ModelConfig(name="m", path=str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = weights_fingerprint(model)
    (tmp_path / "README.md").write_text("does not matter")
    assert weights_fingerprint(model) == before
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert weights_fingerprint(model) != before
    assert weights_fingerprint(ModelConfig(path=str(tmp_path), weights="random")) == []


def test_ids_depend_on_the_content_of_a_local_clip(tmp_path):
    """Another CLIP in the same folder gives other scores of `cdpruner`."""
    for name in ("model", "clip"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"one")
    model = ModelConfig(name="m", path=str(tmp_path / "model"), clip=str(tmp_path / "clip"))
    before = weights_fingerprint(model), weights_id(model), cell_id(model, "pope", 0)
    assert len(before[0]) == 2
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"two")
    after = weights_fingerprint(model), weights_id(model), cell_id(model, "pope", 0)
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert len(weights_fingerprint(replace(model, weights="random"))) == 1
    assert len(weights_fingerprint(replace(model, clip="openai/clip"))) == 1  # a hub id


def test_a_digest_ignores_the_order_of_keys_but_no_value():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert len({digest(value) for value in (1, 1.5, "1", [1], None, True, {"a": 1})}) == 7
    assert len(digest(1)) == LENGTH


def test_another_process_finds_the_same_ids():
    code = (
        "import json; from zoo_exp.config import compose\n"
        f"e = compose({BASE!r}); print(json.dumps([e.id, [c.id for c in e.cells()], [a.id for a in e.arms]]))"
    )
    experiment = compose(BASE)
    answers = []
    for seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        answers.append(json.loads(run.stdout))
    expected = [experiment.id, [cell.id for cell in experiment.cells()], [arm.id for arm in experiment.arms]]
    assert answers == [expected, expected]


def test_a_selector_that_selects_other_tokens_than_before_is_another_arm(monkeypatch):
    """Records of VisPruner and CDPruner from before they followed their releases are not those of today's classes."""

    def arms():
        return [arm.id for arm in compose(["selector=[vispruner,cdpruner,divprune]", "budget=16"]).arms]

    today = arms()
    for kind in (VisPruner, CDPruner):
        assert kind.algorithm == 2
        monkeypatch.setattr(kind, "algorithm", 1)
    before = arms()
    assert [new != old for new, old in zip(today, before, strict=True)] == [True, True, False]
    # What the first release wrote.
    assert before[:2] == ["1f82447d04e4", "ccc17f078215"]
