"""Responses that a scorer cannot read: their shares, the note, and the table."""

import json

import pytest
from made_up_run import arms, known

from zoo_exp.report.run_document import markdown_document, write_json
from zoo_exp.report.tables import unreadable_table
from zoo_exp.runs import run_answers
from zoo_exp.runs.reading import read_records, read_timings
from zoo_exp.statistics.results import compute

TASK = "embedded_pope"


def results_of(run, share_by_arm):
    """Results of the made-up run in which the first questions of some arms have unreadable responses."""
    records = read_records(run)
    for arm, share in share_by_arm.items():
        mine = records.index[(records["arm_id"] == arm) & (records["task"] == TASK)]
        for place in mine[: round(share * len(mine))]:
            records.at[place, "parts"] = {**records.at[place, "parts"], "unreadable": True}
    return compute("made_up", records, read_timings(run), tasks=known(), arms=arms(), draws=50)


def test_shares_by_hand(make_run):
    results = results_of(make_run(), {"zoo none @16-0": 0.25, "random @16-0": 0.5, "random @16-1": 0.1})
    found = {line.arm: line.share for line in results.unreadable.itertuples()}
    assert found == {
        "full": 0,
        "zoo multiply @16": 0,
        "zoo none @16": 0.25,
        "random @16 (2 seeds)": pytest.approx(0.3),
        "blind": 0,
    }
    assert set(results.unreadable["task"]) == {TASK}


def test_a_note_names_the_worst_arms(make_run):
    many = {"zoo none @16-0": 0.25, "zoo multiply @16-0": 0.1, "blind-0": 0.5, "full-0": 0.05}
    (note,) = results_of(make_run(), many).notes
    assert note.startswith(
        f"{TASK}: responses without yes or no: 50 % of blind, 25 % of zoo none @16, 10 % of zoo multiply @16 "
        "and 1 more arm; "
    )


def test_a_few_are_in_the_table_and_no_warning(make_run, tmp_path):
    results = results_of(make_run(), {"zoo none @16-0": 0.025})
    assert results.notes == []
    table = unreadable_table(results)
    assert [cell.text for cell in table.rows[2]] == ["zoo none @16", "2.5"]
    assert "Unreadable responses" in markdown_document(results)
    write_json(results, tmp_path / "results.json")
    lines = json.loads((tmp_path / "results.json").read_text())["unreadable"]
    assert {line["arm"]: line["share"] for line in lines}["zoo none @16"] == 0.025


def test_without_any_there_is_no_table(make_run):
    results = results_of(make_run(), {})
    assert not unreadable_table(results).rows
    assert "Unreadable" not in markdown_document(results)


def test_parts_that_are_read_again_count_as_well(make_run, monkeypatch):
    run = make_run()
    kept = results_of(run, {"zoo none @16-0": 0.25}).unreadable
    monkeypatch.setattr(run_answers, "MOST_PARTS", 1)
    assert results_of(run, {"zoo none @16-0": 0.25}).unreadable.equals(kept)
