"""`python -m zoo_exp bench`: its own keys, its bad inputs, and one real run on a tiny model."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
import yaml

from zoo_exp._cli import bench
from zoo_exp.cli import main
from zoo_exp.config.compose import compose
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import adapter_for
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.tiny import tiny_model


def test_its_own_keys_are_taken_out_of_the_overrides():
    settings, rest = bench.take_settings(
        ["model=embedded", "batch=[1,8]", "repeats=3", "budget=16", "+threads=1"]
    )
    assert rest == ["model=embedded", "budget=16"]
    assert (settings["batch"], settings["repeats"], settings["threads"]) == ([1, 8], 3, 1)
    assert settings["new_tokens"] == 16
    assert bench.take_settings(["batch=4"])[0]["batch"] == [4]


@pytest.mark.parametrize(
    "bad",
    [
        "batch=0",
        "batch=[]",
        "batch=[1,x]",
        "repeats=[1,2]",
        "warmup=-1",
        "threads=0",
        "new_tokens=1.5",
        "text=true",
    ],
)
def test_values_of_the_wrong_kind_are_refused(bad):
    with pytest.raises(InvalidValueError, match=bad.split("=")[0]):
        bench.take_settings([bad])


@pytest.mark.parametrize("bad", ["672", "672x", "axb", "0x5", "1x2x3"])
def test_image_sizes_are_height_x_width(bad):
    with pytest.raises(InvalidValueError, match="672x672"):
        bench.parse_image(bad)


def test_a_gpu_that_is_not_there_is_refused(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench", "selector=full", "trainer.accelerator=gpu"]) == 2
    assert "no GPU" in capsys.readouterr().err
    assert bench.device_for("auto").type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bench.device_for("auto").type == "cuda"
    assert bench.device_for("cpu").type == "cpu"


def test_unknown_keys_and_selectors_are_refused_without_a_traceback(capsys):
    assert main(["bench", "bach=3"]) == 2
    assert main(["bench", "selector=zo", "budget=16"]) == 2
    error = capsys.readouterr().err
    assert "bach" in error
    assert "Did you mean 'zoo'" in error
    assert "Traceback" not in error


def test_a_bench_writes_its_table_and_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "120")

    def load(experiment, device):
        model = tiny_model("llava")
        adapter = adapter_for(model)
        return LoadedModel(model, None, adapter, "tiny", adapter.n_visual)

    monkeypatch.setattr(bench, "_load", load)
    command = [
        "bench",
        "selector=[full,random,zoo]",
        "selector.seeds=1",
        "budget=5",
        "batch=[1,2]",
        "repeats=2",
    ]
    assert main([*command, "warmup=0", "new_tokens=2", "text=20", f"out={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "speed-up" in printed
    (folder,) = tmp_path.glob("custom/*/bench/*")
    names = {"bench.csv", "bench.md", "bench.json", "stages.png"}
    assert {path.name for path in folder.iterdir()} == names
    with (folder / "bench.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["arm"] for line in lines] == ["full", "random @5", "zoo multiply @5"] * 2
    assert [line["batch_size"] for line in lines] == ["1"] * 3 + ["2"] * 3
    assert json.loads((folder / "bench.json").read_text())["provenance"]["torch"]


def test_the_configuration_is_printed_with_the_settings_of_the_bench(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "_load", lambda experiment, device: pytest.fail("the model is not loaded"))
    assert main(["bench", "--cfg", "job", "budget=16", "batch=[1,8]", f"out={tmp_path / 'none'}"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["bench"]["batch"] == [1, 8]
    assert [arm["row"] for arm in shown["arms"]][:2] == ["full", "divprune @16"]
    assert not (tmp_path / "none").exists()


def test_a_budget_that_prunes_nothing_is_refused(tmp_path, monkeypatch, capsys):
    def load(experiment, device):
        model = tiny_model("llava")
        return LoadedModel(model, None, adapter_for(model), "tiny", 16)

    monkeypatch.setattr(bench, "_load", load)
    assert main(["bench", "selector=divprune", "budget=16", f"out={tmp_path}"]) == 2
    assert "nothing is pruned" in capsys.readouterr().err


def test_scores_come_from_the_results_of_the_experiments_run(tmp_path):
    experiment = compose(["+exp=efficiency", f"out={tmp_path}"])
    assert experiment.tasks == ("world2_pope",)
    rows = [
        {"arm": "full", "row": "full", "task": "world2_pope", "metric": "pope_f1_score", "value": 0.9},
        {"arm": "random @16 (3 seeds)", "row": "random @16", "task": "world2_pope"}
        | {"metric": "pope_f1_score", "value": 0.5},
        {"arm": "blind", "row": "blind", "task": "world2_pope", "metric": "pope_f1_score", "value": None},
        {"arm": "full", "row": "full", "task": "average", "metric": "mean score", "value": 0.1},
    ]
    experiment.run_dir.mkdir(parents=True)
    (experiment.run_dir / "results.json").write_text(json.dumps({"rows": rows}))
    scores, metric = bench._scores(experiment)
    assert scores == {"full": 0.9, "random @16": 0.5}
    assert metric == "world2_pope: pope_f1_score"


def test_pope_is_the_task_of_the_efficiency_experiment_on_every_model():
    for model in ("llava15_7b", "llava_next_7b", "qwen25_vl_7b"):
        assert compose(["+exp=efficiency", f"model={model}"]).tasks == ("pope",)


def test_scores_are_found_by_the_labels_that_users_give(tmp_path):
    """A label may end in brackets; only the number of seeds, which the table adds, is not part of it."""
    rows = [
        {"task": "embedded_gqa", "metric": "accuracy", "arm": arm, "row": row, "value": value}
        for arm, row, value in (
            ("ours (new) @16", "ours (new) @16", 0.5),
            ("random @16 (3 seeds)", "random @16", 0.25),
            ("full", "full", None),
        )
    ]
    (tmp_path / "results.json").write_text(json.dumps({"rows": rows}))
    experiment = SimpleNamespace(run_dir=tmp_path, tasks=["embedded_gqa"])
    assert bench._scores(experiment) == (
        {"ours (new) @16": 0.5, "random @16": 0.25},
        "embedded_gqa: accuracy",
    )
