"""Comparing two arms question by question: numbers, unmatched questions, and what is refused."""

import json

import numpy as np
import pytest

from zoo_exp.cli import main
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.report.runs import results_of
from zoo_exp.runs.load import load_run
from zoo_exp.statistics.arm_rows import group
from zoo_exp.statistics.compare_runs import compare_runs, find_row

ZOO, NONE = "zoo multiply @16", "zoo none @16"
NUMBERS = ["difference", "low", "high", "p_value"]


def rewrite(run, change):
    """Replace records; `change` returns a row or None."""
    path = run / "records.jsonl"
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row))


def test_the_retained_average_agrees_with_the_report(make_whole_run):
    run = make_whole_run()
    expected = results_of(load_run(run), draws=300).comparisons
    for line in expected.to_dict("records"):
        pair = compare_runs([run], [line["arm"], line["against"]], draws=300).pairs[0]
        found = pair.frame.set_index("task").loc["average retained"]
        assert found[NUMBERS].tolist() == pytest.approx([line[name] for name in NUMBERS])
        assert (found["first_higher"], found["second_higher"]) == (
            line["only_arm_right"],
            line["only_against_right"],
        )


def test_differences_and_agreement_follow_from_the_records(make_whole_run):
    run = make_whole_run()
    records = load_run(run).records.set_index(["task", "arm", "sample_id"])["score"]
    pair = compare_runs([run], [ZOO, NONE], draws=50).pairs[0]
    line = pair.frame.set_index("task").loc["embedded_gqa"]
    one, other = records["embedded_gqa", ZOO], records["embedded_gqa", NONE]
    assert line["difference"] == pytest.approx(100 * (one - other).mean())
    assert line["same_score"] == pytest.approx((one == other).mean())
    changed = pair.changed[pair.changed["task"] == "embedded_gqa"]
    assert set(changed["sample_id"]) == set(one.index[one != other])
    assert (changed["difference"].to_numpy() == (one - other)[changed["sample_id"]].to_numpy()).all()
    sizes = pair.changed["difference"].abs().to_numpy()
    assert (np.diff(sizes) <= 0).all()
    assert (np.diff(pair.changed["sample_id"].astype("category").cat.codes) < 0).any()


def test_an_arm_alone_is_compared_with_the_others_of_its_budget_and_seeds_count_together(make_whole_run):
    found = compare_runs([make_whole_run()], [ZOO], draws=50)
    assert [pair.second for pair in found.pairs] == [NONE, "random @16 (2 seeds)"]


def test_runs_of_two_models_share_their_arms_and_questions(make_whole_run):
    one, other = make_whole_run("a"), make_whole_run("a", run_id="ffff", name="big", path="big")

    def fewer(row):
        text = row["question"] + "!" if row["sample_id"] == "001-0" else row["question"]
        return None if row["image_id"] == "image-000" else row | {"question": text}

    rewrite(other, fewer)
    found = compare_runs([one, other], draws=50)
    assert [pair.first for pair in found.pairs][:2] == ["full [embedded]", f"{ZOO} [embedded]"]
    assert found.pairs[0].second == "full [big]"
    notes = " ".join(found.pairs[0].notes)
    assert "2 of 24 questions of full [embedded] are left out" in notes
    assert "1 questions are left out, because they have the same id in both runs, but another text" in notes
    assert found.pairs[0].frame["n"].iloc[0] == 21
    assert "the models differ: embedded and big" in found.notes
    assert len(compare_runs([one, other], [ZOO, NONE], draws=50).pairs) == 1


def test_points_of_a_sweep_are_found_in_the_folder_above(make_whole_run):
    newest = make_whole_run("swept", run_id="bbbb")
    older = make_whole_run("swept", run_id="aaaa")
    manifest = json.loads((older / "experiment.json").read_text())
    for arm in manifest["experiment"]["arms"]:
        if arm["arm"] == ZOO:
            arm["arm"], arm["options"], arm["arm_id"] = "zoo power=2 @16", {"power": 2}, "other"
    (older / "experiment.json").write_text(json.dumps(manifest))
    changed = {"arm": "zoo power=2 @16", "options": {"power": 2}, "arm_id": "other"}
    rewrite(older, lambda row: row | changed if row["arm"] == ZOO else row)
    pair = compare_runs([newest.parent], [ZOO, "zoo power=2 @16"], draws=50)
    assert len(pair.runs) == 2
    assert pair.pairs[0].frame["difference"].eq(0).all()


def test_names_of_arms(make_whole_run):
    rows = group(load_run(make_whole_run()).experiment["arms"])
    assert find_row(rows, " zoo  multiply @16").row == ZOO
    assert find_row(rows, "random").label == "random @16 (2 seeds)"
    assert find_row(rows, "divprune @16") is None
    with pytest.raises(
        InvalidValueError, match='fits several arms: give one of "zoo multiply @16", "zoo none @16"'
    ):
        find_row(rows, "zoo @16")


def test_what_cannot_be_compared_is_refused_in_one_line(make_whole_run, tmp_path):
    run, other = make_whole_run("a"), make_whole_run("a", run_id="ffff")
    rewrite(other, lambda row: row | {"sample_id": f"x{row['sample_id']}"})
    with pytest.raises(InvalidValueError, match="share no questions that can be compared"):
        compare_runs([run, other], [ZOO], draws=50)
    for paths, arms, kind, match in (
        ([run], ["zoo multiplied @16", NONE], UnknownNameError, "Did you mean 'zoo multiply @16'"),
        ([run], [ZOO, ZOO], InvalidValueError, "twice"),
        ([run], [], InvalidValueError, "--arms with one arm or more of"),
        ([run, run], [], InvalidValueError, "the same run"),
        ([run, run, run], [], InvalidValueError, "one run or two"),
        ([run, other], ["a", "b", "c"], InvalidValueError, "an arm of each"),
        ([tmp_path / "nowhere"], [ZOO], MissingFileError, "no folder"),
        ([tmp_path], [ZOO], MissingFileError, "contains no run"),
    ):
        with pytest.raises(kind, match=match) as raised:
            compare_runs(paths, arms, draws=50)
        assert "\n" not in str(raised.value)


def test_the_command_prints_a_table_json_csv_and_markdown(make_whole_run, capsys):
    run = str(make_whole_run())
    assert main(["compare", run, "--arms", ZOO, NONE, "--changed", "2"]) == 0
    out = capsys.readouterr().out
    assert f"A: {ZOO}; B: {NONE}" in out
    assert "Questions on which the scores of A and B differ: 2 of" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["compare", run, "--arms", ZOO, NONE, "--json", "--changed", "1"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["pairs"][0]["rows"][-1]["task"] == "average retained"
    assert len(document["pairs"][0]["changed"]) == 1
    assert main(["compare", run, "--arms", ZOO, "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("arm,against,task,metric")
    assert len(lines) == 1 + 2 * 5
    assert main(["compare", run, "--arms", ZOO, "--md"]) == 0
    assert "| arm B |" in capsys.readouterr().out
    assert main(["compare", run, "--arms", "zoom @16"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["compare", run, "--arms", ZOO, NONE, "--changed", "-1"]) == 2
