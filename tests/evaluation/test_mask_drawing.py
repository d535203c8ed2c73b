"""Kept tokens of every question are recorded, and masks are drawn from them later, without the model."""

import json

import pytest

from zoo_exp import cli
from zoo_exp.evaluation.mask_drawing import Drawing, differing
from zoo_exp.runs import folder, kept, reading

RUN = [
    "selector=[full,blind,divprune,fastv]", "budget=[28,8]", "task=[embedded_pope,embedded_gqa]", "limit=7",
    "logger=none", "trainer=cpu", "model.batch_size=3",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    assert cli.main(["run", *RUN, f"out={out}"]) == 0
    (path,) = out.glob("*/*/experiment.json")
    return path.parent


def test_every_answer_has_its_kept_tokens(run):
    found = kept.read(run)
    records = list(reading.records(run))
    assert set(found) == {(row["task"], row["sample_id"], row["arm_id"]) for row in records}
    for row in records:
        one = found[row["task"], row["sample_id"], row["arm_id"]]
        assert one.layout == "12x12"
        if row["selector"] != "fastv":  # recorded: what entered; kept: what reaches the last layer
            assert len(one.indices()) == row["kept_tokens"]
    assert not folder.journals(run, folder.KEPT)


def test_masks_of_later_drawing_equal_those_of_the_run(run, tmp_path):
    rows = reading.masks(run)
    images = {row.image: (run / row.image).read_bytes() for row in rows}
    assert {row.task for row in rows} == {"embedded_pope", "embedded_gqa"}
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("experiment.json", "records.jsonl", "kept.parquet"):
        (copy / name).write_bytes((run / name).read_bytes())
    wanted = {}
    for row in rows:
        wanted.setdefault(row.task, []).append(row.sample_id)
    assert Drawing(copy).draw(wanted) == len(rows)
    assert reading.masks(copy) == rows
    assert {name: (copy / name).read_bytes() for name in images} == images
    assert Drawing(copy).draw(wanted) == 0


def test_a_run_ends_with_the_masks_of_questions_on_which_arms_differ(run):
    scores = {}
    for row in reading.records(run):
        if row["selector"] != "blind":
            scores.setdefault((row["task"], row["sample_id"]), set()).add(row["score"] >= 0.5)
    apart = {key for key, found in scores.items() if len(found) > 1}
    chosen = differing(run, seed=0)
    assert apart == {(task, sample) for task, samples in chosen.items() for sample in samples}
    assert apart <= {(row.task, row.sample_id) for row in reading.masks(run)}
    fewer = differing(run, seed=1, most=1)
    assert all(len(samples) == 1 and samples[0] in chosen[task] for task, samples in fewer.items())


def test_the_command_draws_any_question(run, tmp_path, capsys):
    known = {(row.task, row.sample_id) for row in reading.masks(run)}
    rest = [
        row["sample_id"] for row in reading.records(run)
        if row["task"] == "embedded_gqa" and (row["task"], row["sample_id"]) not in known
    ]  # fmt: skip
    target = tmp_path / "one.png"
    arms = ["--arms", "full", "divprune @8", "--out", str(target)]
    sample = rest[0] if rest else next(sample for task, sample in known if task == "embedded_gqa")
    assert cli.main(["masks", str(run), "--samples", sample, *arms]) == 0
    assert target.read_bytes().startswith(b"\x89PNG")
    assert "masks of 1 question: " in capsys.readouterr().out
    for wrong, said in (
        (["--samples", "nowhere"], "unknown question 'nowhere'"),
        (["--samples", sample, "--arms", "divprun @8"], "Did you mean 'divprune @8'"),
        (["--samples", sample, "--task", "embedded_gqaa"], "Did you mean 'embedded_gqa'"),
        (["--samples", ","], "between 1 and 200"),
        (["--samples", sample, "--out", "x.jpg"], "PNG"),
    ):
        assert cli.main(["masks", str(run), *wrong]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert len(error.splitlines()) == 1


def test_a_run_without_kept_tokens_or_data_is_told_in_one_line(run, tmp_path, capsys):
    copy = tmp_path / "run"
    copy.mkdir()
    for name in ("experiment.json", "records.jsonl"):
        (copy / name).write_bytes((run / name).read_bytes())
    sample = next(iter(reading.records(copy)))["sample_id"]
    assert cli.main(["masks", str(copy), "--samples", sample]) == 2
    assert "has no kept tokens" in capsys.readouterr().err
    manifest = json.loads((copy / "experiment.json").read_text())
    manifest["experiment"]["tasks"] = ["pope"]
    manifest["experiment"]["data"]["root"] = str(tmp_path / "away")
    (copy / "experiment.json").write_text(json.dumps(manifest))
    rows = [json.loads(line) for line in (run / "records.jsonl").read_text().splitlines()]
    pope = [row | {"task": "pope"} for row in rows if row["task"] == "embedded_pope"]
    (copy / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pope))
    one = kept.KeptRow(
        task="pope",
        cell="c",
        arm_id=pope[0]["arm_id"],
        kept={pope[0]["sample_id"]: kept.Kept.of("12x12", [1])},
    )
    (copy / "journals").mkdir()
    (copy / "journals" / "kept-c-rank0-001.jsonl").write_text(json.dumps(one.to_row()) + "\n")
    assert cli.main(["masks", str(copy), "--samples", pope[0]["sample_id"]]) == 2
    error = capsys.readouterr().err
    assert "away" in error
    assert len(error.splitlines()) == 1
