"""Run folders: finding, loading, refusing incompatible ones, and notes on missing data."""

import json
import os

import pytest
from made_up_run import manifest

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.report.runs import results_of
from zoo_exp.runs import journal
from zoo_exp.runs.load import check_together, find_runs, load_run, passed_over


def change(run, **fields):
    content = json.loads((run / "experiment.json").read_text())
    for key, value in fields.items():
        content[key] = {**content[key], **value} if isinstance(value, dict) else value
    (run / "experiment.json").write_text(json.dumps(content))
    return run


def test_a_folder_above_stands_for_the_newest_run_of_each_experiment(make_whole_run, tmp_path):
    old, new = make_whole_run("one", run_id="old"), make_whole_run("one", run_id="new")
    other = make_whole_run("two", run_id="only")
    os.utime(old / "records.jsonl", (1, 1))
    runs = tmp_path / "runs"
    assert find_runs([runs / "one"]) == [new]
    assert find_runs([runs]) == [new, other]
    assert find_runs([old, new, old]) == [old, new]


def test_a_run_that_has_no_records_yet_does_not_count_as_the_newest(make_whole_run, tmp_path):
    done = make_whole_run("one", run_id="done")
    (tmp_path / "runs" / "one" / "begun").mkdir()
    (tmp_path / "runs" / "one" / "begun" / "experiment.json").write_text(json.dumps(manifest("one")))
    assert find_runs([tmp_path / "runs" / "one"]) == [done]


@pytest.mark.parametrize(("name", "match"), [("nowhere", "no folder"), (".", "contains no run with records")])
def test_a_folder_without_a_run_is_refused_with_a_hint(tmp_path, name, match):
    with pytest.raises(MissingFileError, match=match):
        find_runs([tmp_path / name])


def test_no_records_and_no_manifest_are_named(make_whole_run):
    run = make_whole_run()
    (run / "records.jsonl").write_text("")
    with pytest.raises(MissingFileError, match="contains no records yet"):
        load_run(run)
    (run / "records.jsonl").unlink()
    with pytest.raises(MissingFileError, match=r"cannot read .*: no records yet; rerun the same command"):
        load_run(run)
    (run / "experiment.json").unlink()
    with pytest.raises(MissingFileError, match=r"not a run folder.*experiment\.json"):
        load_run(run)


@pytest.mark.parametrize("content", ["not json", "[]", '{"experiment": 3}', '{"experiment": {"name": "x"}}'])
def test_a_damaged_manifest_is_refused(make_whole_run, content):
    run = make_whole_run()
    (run / "experiment.json").write_text(content)
    with pytest.raises(MissingFileError, match=r"damaged|lacks"):
        load_run(run)


def test_a_run_of_a_newer_version_is_refused(make_whole_run):
    run = change(make_whole_run(), provenance={"zoo-exp": "99.0"})
    with pytest.raises(InvalidValueError, match=r"written by zoo_exp 99\.0.*install the newer version"):
        load_run(run)


@pytest.mark.parametrize("field", ["attention", "dtype", "revision"])
def test_different_settings_of_one_model_are_refused_or_marked(make_whole_run, field):
    runs = [load_run(make_whole_run("one")), load_run(make_whole_run("two", **{field: "other"}))]
    with pytest.raises(InvalidValueError, match=rf"model\.{field} is .* and other.*--mixed"):
        check_together(runs)
    (warning,) = check_together(runs, mixed=True)
    assert f"model.{field}" in warning


def test_attention_backends_must_agree_between_models_too(make_whole_run):
    first = load_run(make_whole_run("one"))
    assert not check_together([first, load_run(make_whole_run("two", name="llava15_7b", dtype="float16"))])
    other = load_run(make_whole_run("three", name="llava15_7b", attention="eager"))
    with pytest.raises(InvalidValueError, match=r"model\.attention is sdpa and eager"):
        check_together([first, other])


def test_data_revisions_must_agree(make_whole_run):
    first, second = make_whole_run("one"), make_whole_run("two")
    for run, revision in ((first, "a1"), (second, "b2")):
        change(run, data=None)
        content = json.loads((run / "experiment.json").read_text())
        content["data"] = {"embedded_gqa": {"revision": revision}}
        (run / "experiment.json").write_text(json.dumps(content))
    with pytest.raises(InvalidValueError, match=r"data of embedded_gqa are .*a1.* and .*b2"):
        check_together([load_run(first), load_run(second)])


def test_cells_that_differ_mean_other_weights_or_data(make_whole_run):
    first, second = make_whole_run("one"), make_whole_run("two")
    text = (second / "records.jsonl").read_text()
    (second / "records.jsonl").write_text(text.replace("cell of embedded_gqa", "another cell"))
    with pytest.raises(InvalidValueError, match="weights or data revision differ for embedded_gqa"):
        check_together([load_run(first), load_run(second)])
    mixed = text.replace("cell of embedded_gqa", "another cell", 1)
    (second / "records.jsonl").write_text(mixed)
    with pytest.raises(InvalidValueError, match="embedded_gqa has records of 2 different"):
        check_together([load_run(second)])


def test_an_unfinished_run_reports_what_is_missing(make_whole_run):
    run = make_whole_run()
    rows = (run / "records.jsonl").read_text().splitlines(keepends=True)
    kept = [
        row
        for row in rows
        if '"embedded_vqav2"' not in row and not ('"zoo none @16"' in row and '"embedded_pope"' in row)
    ]
    short = [row for row in kept if not ('"blind"' in row and '"sample_id": "011-' in row)]
    (run / "records.jsonl").write_text("".join(short))
    notes = "\n".join(results_of(load_run(run), draws=50).notes)
    assert "embedded_vqav2: excluded, because no question has responses under every arm yet" in notes
    assert "embedded_pope: no records yet for zoo none @16" in notes
    assert "embedded_gqa: unfinished, between 22 and 24 questions" in notes


def test_a_task_that_stopped_at_the_same_question_for_all_arms_is_unfinished(make_whole_run):
    run = make_whole_run()
    (run / "cells").mkdir()
    for task, samples in (("embedded_gqa", 30), ("embedded_pope", 24), ("embedded_vqav2", 50)):
        cell = "of older weights" if task == "embedded_vqav2" else f"cell of {task}"
        state = {"task": task, "cell": cell, "samples": samples}
        (run / "cells" / f"{task}.json").write_text(json.dumps(state))
    unfinished = [note for note in results_of(load_run(run), draws=50).notes if "unfinished" in note]
    assert unfinished == [
        "embedded_gqa: unfinished, 24 of 30 questions answered; rerun the same command to resume"
    ]
    rows = (run / "records.jsonl").read_text().splitlines(keepends=True)
    short = [row for row in rows if not ('"blind"' in row and '"sample_id": "011-' in row)]
    (run / "records.jsonl").write_text("".join(short))
    notes = "\n".join(results_of(load_run(run), draws=50).notes)
    assert "embedded_gqa: unfinished, between 22 and 24 of 30 questions answered, by arm" in notes
    assert "embedded_pope: unfinished, between 22 and 24 of 24 questions answered, by arm" in notes


@pytest.mark.parametrize("content", ["", "[]", '{"cell": "cell of embedded_gqa", "samples": null}'])
def test_a_damaged_count_of_questions_is_ignored(make_whole_run, content):
    run = make_whole_run()
    (run / "cells").mkdir()
    (run / "cells" / "embedded_gqa.json").write_text(content)
    assert not [note for note in results_of(load_run(run), draws=50).notes if "unfinished" in note]


def test_journals_of_an_interrupted_run_count(make_whole_run, tmp_path):
    run = make_whole_run("one")
    rows = (run / "records.jsonl").read_text().splitlines(keepends=True)
    whole = load_run(run).records
    journals = journal.Journal(run, "records", "cell", 0)
    journals.append(json.loads(row) for row in rows[100:])
    journals.close()
    (run / "records.jsonl").write_text("".join(rows[:120]))
    key = ["task", "arm_id", "sample_id"]
    again = load_run(run).records.sort_values(key, ignore_index=True)
    assert again.equals(whole.sort_values(key, ignore_index=True))
    (run / "records.jsonl").unlink()
    assert find_runs([tmp_path / "runs" / "one"]) == [run]
    assert len(load_run(run).records) == len(rows) - 100


def test_a_folder_with_several_runs_selects_the_newest_with_a_note(make_whole_run):
    older = make_whole_run("made_up", run_id="a" * 12)
    newer = make_whole_run("made_up", run_id="b" * 12)
    os.utime(older / "records.jsonl", (1, 1))
    above = [newer.parent]
    (told,) = passed_over(find_runs(above), above)
    assert "the newest of 2 runs" in told
    assert newer.name in told
    assert passed_over([older], [older]) == passed_over([older, newer], [older, newer]) == []
