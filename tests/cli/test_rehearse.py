"""`rehearse`: an experiment on a slim checkpoint passes its checks, and what is wrong is found."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import warm

from zoo_exp.cli import main
from zoo_exp.core.budget import Budget
from zoo_exp.evaluation import module
from zoo_exp.models import generators, prompt
from zoo_exp.rehearsal import made_data, ways
from zoo_exp.rehearsal.rehearsing import Outcome
from zoo_exp.rehearsal.table import WIDTH, table
from zoo_exp.selectors.divprune import DivPrune

HUB = Path(__file__).resolve().parents[3] / "shared" / "hub"
FEW = ["selector=[full,zoo,fastv]", "budget=20%", "--one-process"]
OK = ["ok", "ok", "ok", "ok"]


def lines_of(capsys):
    out = capsys.readouterr().out
    return out[out.index("experiment  ") :].splitlines()


@pytest.mark.parametrize("name", ["table1_llava15_7b", "table3_llava_next_7b", "qwen25_vl_7b"])
def test_an_experiment_of_each_family_on_a_slim_checkpoint(name, capsys):
    assert main(["rehearse", f"+exp={name}", "task=pope", *FEW]) == 0
    header, row, last = lines_of(capsys)
    assert row.split()[:-1] == [name, "3/3", "0", *OK]
    assert max(len(header), len(row)) <= 80
    assert last == "1 experiment, 0 failed"
    assert module.generate.__module__ == "zoo_exp.models.answering"


@pytest.mark.slow
def test_every_way_gives_the_records_of_one_process(capsys, monkeypatch):
    monkeypatch.setattr(ways, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": warm.Popen}))
    few = ["task=[embedded_pope,embedded_mme]", "selector=[full,zoo]", "budget=16"]
    assert main(["rehearse", "+exp=ablation_fusion", *few]) == 0
    row = lines_of(capsys)[1].split()
    assert row[3:9] == [*OK, "ok", "ok"]
    assert row[9] == ("ok" if ways.slurm_is_here() else "-")


def test_other_records_and_failures_of_a_way_are_found(tmp_path, monkeypatch):
    def answer(texts):
        out = next(text for text in texts if text.startswith("out="))
        return out.partition("=")[2].encode()[-4:]

    def broken(texts):
        raise OSError("no space left")

    monkeypatch.setattr(ways, "_here", lambda texts: b"nine")
    monkeypatch.setattr(ways, "_killed", lambda texts: b"nine")
    monkeypatch.setattr(ways, "_ranks", answer)
    monkeypatch.setattr(ways, "_array", broken)
    monkeypatch.setattr(ways, "slurm_is_here", lambda: True)
    found = ways.compare(["+exp=sanity"], tmp_path)
    assert found == {
        "killed": "",
        "ranks": "other records than those of one process",
        "array": "no space left",
    }
    outcome = Outcome("sanity", "embedded", (4, 4), ways=found)
    assert not outcome.passed
    assert "    array: no space left" in table([outcome])


@pytest.mark.parametrize("wrong", ["kept", "args"])
def test_what_is_wrong_is_found(wrong, capsys, monkeypatch):
    if wrong == "kept":
        select = DivPrune.select_many
        monkeypatch.setattr(
            DivPrune,
            "select_many",
            lambda self, images, budget, *rest: select(self, images, Budget(count=5), *rest),
        )
    else:
        inner = prompt.generate_pruned

        def sampling(model, given, **options):
            return inner(model, given, **{**options, "do_sample": True})

        monkeypatch.setattr(generators, "generate_pruned", sampling)
    arms = ["selector=[full,divprune]", "budget=16", "--one-process"]
    assert main(["rehearse", "+exp=ablation_fusion", *arms]) == 1
    lines = lines_of(capsys)
    assert any(line.startswith(f"    {wrong}: ") for line in lines)
    assert max(map(len, lines)) <= WIDTH == 80
    assert lines[-1] == "1 experiment, 1 failed"


def test_own_data_with_a_missing_task(tmp_path, capsys):
    data = made_data.make(tmp_path / "data")
    shutil.rmtree(data / "gqa")
    name = "ablation_fusion"
    more = ["model=llava15_7b", f"data.root={data}", *FEW]
    assert main(["rehearse", f"+exp={name}", *more]) == 1
    lines = lines_of(capsys)
    assert lines[1].split()[3:7] == OK
    assert any(line.startswith("    missing: gqa: ") for line in lines)
    assert not any(line.startswith("    missing: pope") for line in lines)


@pytest.mark.parametrize("name", ["table1_llava15_7b", "qwen25_vl_7b"])
def test_published_settings_without_weights(name, tmp_path, capsys):
    source = HUB / {"table1_llava15_7b": "llava15", "qwen25_vl_7b": "qwen"}[name]
    if not source.is_dir():
        pytest.skip("the published settings are not beside this checkout (../shared/hub)")
    folder = shutil.copytree(source, tmp_path / source.name)
    for path in folder.iterdir():
        path.chmod(0o644)
    out = tmp_path / "table.md"
    more = [f"model.path={folder}", "task=pope", *FEW, "--out", str(out)]
    assert main(["rehearse", f"+exp={name}", *more]) == 0
    lines = lines_of(capsys)
    assert lines[1].split()[:7] == [name, "3/3", "0", *OK]
    assert any(line.startswith("    cost: ") for line in lines)
    assert f"| {name} |" in out.read_text()


def test_settings_of_another_model_are_refused(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert main(["rehearse", "+exp=table1_llava15_7b", f"model.path={tmp_path}", *FEW]) == 1
    text = " ".join(lines_of(capsys)).replace("      ", "")
    assert f"error: model.path={tmp_path}: " in text
