"""From records to numbers: by hand where it can be done, and the promises that the tables make."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from made_up_run import TASKS, arms, made_up_aggregate, made_up_metric

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.report.tables import kept_count, legend
from zoo_exp.runs.reading import read_records, read_timings
from zoo_exp.statistics.results import compute


def results_of(run, records=None, **changes):
    options = {"draws": 300, "tasks": TASKS, "arms": arms()} | changes
    records = read_records(run) if records is None else records
    return compute(
        "made_up",
        records,
        read_timings(run),
        aggregate=made_up_aggregate,
        main_metric=made_up_metric,
        **options,
    )


def line(results, arm, task):
    frame = results.frame
    (found,) = frame[(frame["arm"] == arm) & (frame["task"] == task)].to_dict("records")
    return found


def test_every_arm_has_a_row_per_task_and_an_average(make_run):
    results = results_of(make_run())
    labels = ["full", "zoo multiply @16", "zoo none @16", "random @16 (2 seeds)", "blind"]
    assert results.frame["arm"].drop_duplicates().tolist() == labels
    assert results.frame["task"].tolist() == [*TASKS, "average"] * 5
    assert results.notes == []


def test_numbers_by_hand(make_run):
    run = make_run()
    records, results = read_records(run), results_of(run)
    shares = []
    for task in TASKS:
        mine = records[records["task"] == task]
        value = {
            arm: made_up_aggregate(task, part["parts"].tolist())[made_up_metric(task)]
            for arm, part in mine.groupby("arm_id")
        }
        row = line(results, "zoo none @16", task)
        assert row["value"] == pytest.approx(value["zoo none @16-0"])
        assert row["retained"] == pytest.approx(100 * value["zoo none @16-0"] / value["full-0"])
        assert row["low"] < row["value"] < row["high"]
        assert (row["n"], row["images"], row["kept_tokens"], row["n_visual"]) == (120, 40, 16, 144)
        assert (row["select_ms"], row["prefill_decode_ms"], row["vision_ms"]) == (0.5, 10.0, 2.0)
        shares.append(row["retained"])
        seeds = [value["random @16-0"], value["random @16-1"]]
        random = line(results, "random @16 (2 seeds)", task)
        assert random["value"] == pytest.approx(np.mean(seeds))
        assert random["seed_sd"] == pytest.approx(np.std(seeds, ddof=1))
    average = line(results, "zoo none @16", "average")
    assert average["retained"] == pytest.approx(np.mean(shares))
    assert average["retained_low"] < average["retained"] < average["retained_high"]
    scores = records[records["arm"] == "zoo none @16"].groupby("task")["score"].mean()
    assert average["value"] == pytest.approx(scores.mean())
    full = line(results, "full", "average")
    assert (full["retained"], full["retained_low"], full["retained_high"]) == (100, 100, 100)


def test_each_metric_gets_its_kind_of_interval(make_run):
    results = results_of(make_run())
    assert line(results, "full", "embedded_gqa")["interval"] == "Wilson by image"
    # F1 is no proportion, VQA scores are no right or wrong, and seeds are averaged.
    assert line(results, "full", "embedded_pope")["interval"] == "bootstrap by image"
    assert line(results, "full", "embedded_vqav2")["interval"] == "bootstrap by image"
    assert line(results, "random @16 (2 seeds)", "embedded_gqa")["interval"] == "bootstrap by image"


def test_same_records_in_any_order_give_the_same_results(make_run):
    run = make_run()
    records = read_records(run)
    shuffled = records.sample(frac=1, random_state=1).reset_index(drop=True)
    first, second = results_of(run), results_of(run, shuffled)
    pd.testing.assert_frame_equal(first.frame, second.frame)
    pd.testing.assert_frame_equal(first.comparisons, second.comparisons)


def test_a_task_has_the_same_intervals_beside_other_tasks(make_run):
    run = make_run()
    both, alone = results_of(run), results_of(run, tasks=TASKS[:1])
    keep = ["value", "low", "high", "retained", "retained_low", "retained_high"]
    pick = [r.frame[r.frame["task"] == TASKS[0]][keep].reset_index(drop=True) for r in (both, alone)]
    pd.testing.assert_frame_equal(*pick)


def test_bold_is_for_what_is_significant(make_run):
    run = make_run()
    results = results_of(run)
    assert line(results, "zoo multiply @16", "average")["best"]
    assert results.frame[results.frame["task"] == "average"]["best"].sum() == 1
    # With one question per image and few images, nothing can be told apart.
    few = read_records(run).groupby(["task", "arm_id"]).head(4)
    assert not results_of(run, few).frame["best"].any()
    # An arm that answers exactly as the best one does takes the bold print away.
    records = read_records(run)
    copy = records[records["arm"] == "zoo multiply @16"].assign(arm="twin @16", arm_id="twin")
    twin = {"arm": "twin @16", "arm_id": "twin", "selector": "twin", "budget": "16"}
    tied = results_of(run, pd.concat([records, copy]), arms=[*arms(), twin])
    assert not tied.frame["best"].any()


def test_who_keeps_more_tokens_than_the_budget_names_does_not_compete(make_run):
    """A layer selector's mean over layers can stand far above the budget that it is listed under."""
    run = make_run()
    records = read_records(run)
    copy = records[records["arm"] == "full"].assign(arm="deep @16", arm_id="deep", kept_tokens=40)
    deep = {"arm": "deep @16", "arm_id": "deep", "selector": "deep", "budget": "16"}
    results = results_of(run, pd.concat([records, copy]), arms=[*arms(), deep])
    row, usual = (line(results, arm, "average") for arm in ("deep @16", "zoo multiply @16"))
    assert row["retained"] > usual["retained"]
    assert (row["above_budget"], row["best"], usual["above_budget"], usual["best"]) == (
        True,
        False,
        False,
        True,
    )
    assert "deep @16" not in {*results.comparisons["arm"], *results.comparisons["against"]}
    assert kept_count(row) == "40\u2021"
    assert any("not compared within that budget" in text for text in legend(results))
    assert not any("not compared" in text for text in legend(results_of(run)))


def test_comparisons_are_against_the_best_of_the_budget(make_run):
    results = results_of(make_run())
    pairs = results.comparisons.set_index("against")
    assert set(pairs.index) == {"zoo none @16", "random @16 (2 seeds)"}
    assert set(pairs["arm"]) == {"zoo multiply @16"}
    none = pairs.loc["zoo none @16"]
    best, other = (line(results, arm, "average")["retained"] for arm in ("zoo multiply @16", "zoo none @16"))
    assert none["difference"] == pytest.approx(best - other)
    assert none["low"] < none["difference"] < none["high"]
    assert none["p_value"] < 0.01
    assert none["only_arm_right"] > none["only_against_right"]
    assert pd.isna(pairs.loc["random @16 (2 seeds)", "p_value"])


def f1_from_sums(_):
    """The made-up F1 as a function of sums, as a task would say it."""

    def tally(row):
        return SimpleNamespace(
            counts={"hits": row["said"] and row["gold"], "said": row["said"], "gold": row["gold"]}
        )

    return SimpleNamespace(
        tallies=lambda rows: [tally(row) for row in rows],
        metrics=lambda sums: {"f1": 2 * sums["hits"] / (sums["said"] + sums["gold"])},
    )


def test_sums_give_the_same_value_and_nearly_the_same_interval(make_run):
    run = make_run()
    exact, linear = results_of(run, scoring=f1_from_sums), results_of(run)
    for arm in ("full", "random @16 (2 seeds)", "blind"):
        first, second = (line(results, arm, "embedded_pope") for results in (exact, linear))
        assert first["value"] == second["value"]
        for name in ("low", "high"):
            assert first[name] == pytest.approx(second[name], abs=0.02)
            assert first[name] != second[name]
    unchanged = [results.frame[results.frame["task"] == TASKS[0]] for results in (exact, linear)]
    pd.testing.assert_frame_equal(*unchanged)


def test_a_metric_that_half_a_run_cannot_give_leaves_its_task_out(make_run):
    run = make_run()

    def needs_pairs(task, rows):
        if task == TASKS[1]:
            raise InvalidValueError("an image has one question of its two")
        return made_up_aggregate(task, rows)

    results = compute(
        *("x", read_records(run), read_timings(run), TASKS, arms(), needs_pairs, made_up_metric), draws=50
    )
    assert results.tasks == [TASKS[0], TASKS[2]]
    assert results.notes == [
        f"{TASKS[1]}: left out, its metric cannot be computed: an image has one question of its two"
    ]


def test_answers_for_a_server_have_no_metric(make_run):
    run = make_run()
    metric = {**dict.fromkeys(TASKS, "accuracy"), TASKS[2]: "submission"}.__getitem__
    results = compute(
        *("x", read_records(run), read_timings(run), TASKS, arms(), made_up_aggregate, metric), draws=50
    )
    assert results.tasks == TASKS[:2]
    assert "scored by the benchmark's server" in results.notes[0]


def test_an_image_with_a_gap_is_left_out_as_a_whole(make_run):
    run = make_run()
    records = read_records(run)
    gap = (records["arm"] == "full") & (records["task"] == TASKS[0]) & (records["sample_id"] == "004-1")
    results = results_of(run, records[~gap])
    assert (line(results, "full", TASKS[0])["n"], line(results, "full", TASKS[0])["images"]) == (117, 39)


def test_half_a_run_is_compared_on_common_questions_and_says_so(make_run):
    run = make_run()
    records = read_records(run)
    late = (records["arm"] == "blind") & (records["task"] == TASKS[0]) & (records["sample_id"] >= "020")
    results = results_of(run, records[~late])
    assert line(results, "full", TASKS[0])["n"] == 60
    assert line(results, "full", TASKS[1])["n"] == 120
    (note,) = results.notes
    assert "embedded_gqa: 60 of 120 questions are left out" in note


def test_an_arm_that_has_not_begun_is_named_and_has_no_average(make_run):
    run = make_run()
    records = read_records(run)
    missing = (records["arm"] == "zoo none @16") & (records["task"] == TASKS[0])
    results = results_of(run, records[~missing])
    assert results.notes == ["embedded_gqa: no records yet for zoo none @16"]
    assert np.isnan(line(results, "zoo none @16", TASKS[0])["value"])
    assert np.isnan(line(results, "zoo none @16", "average")["retained"])
    assert line(results, "zoo none @16", TASKS[1])["value"] > 0
    assert line(results, "full", TASKS[0])["n"] == 120


def test_a_row_that_lacks_a_seed_has_no_value(make_run):
    run = make_run()
    records = read_records(run)
    results = results_of(run, records[records["arm_id"] != "random @16-1"])
    assert np.isnan(line(results, "random @16 (2 seeds)", "average")["retained"])
    assert len(results.notes) == len(TASKS)


def test_arms_without_times_beside_timed_ones_are_named(make_run):
    run = make_run()
    lines = (run / "timings.jsonl").read_text().splitlines(keepends=True)
    (run / "timings.jsonl").write_text("".join(row for row in lines if '"full"' not in row))
    assert any(note.startswith("no times for full:") for note in results_of(run).notes)
    (run / "timings.jsonl").write_text("")
    assert any(note.startswith("no times for any arm:") for note in results_of(run).notes)


def test_without_full_there_is_no_retained_average(make_run):
    run = make_run()
    results = results_of(run, arms=[arm for arm in arms() if arm["arm"] != "full"])
    assert results.frame["retained"].isna().all()
    assert results.comparisons.empty
    assert "no arm 'full'" in results.notes[0]


def test_questions_without_an_image_do_not_count_as_kept_tokens(make_run):
    run = make_run()
    records = read_records(run)
    text_only = records["sample_id"] < "010"
    records.loc[text_only, ["kept_tokens", "n_visual"]] = 0
    assert line(results_of(run, records), "zoo none @16", TASKS[0])["kept_tokens"] == 16


def test_arms_come_from_the_records_where_none_are_given(make_run):
    run = make_run()
    pd.testing.assert_frame_equal(results_of(run, arms=[]).frame, results_of(run).frame)


def test_no_records_of_the_tasks(make_run):
    with pytest.raises(MissingFileError, match=r"no records of its tasks \(other\)"):
        results_of(make_run(), tasks=["other"])


def test_a_main_metric_that_the_task_does_not_give(make_run):
    run = make_run()
    with pytest.raises(InvalidValueError, match="gives no metric 'bleu': it gives accuracy"):
        compute(
            *(
                "x",
                read_records(run),
                read_timings(run),
                TASKS[:1],
                arms(),
                made_up_aggregate,
                lambda _: "bleu",
            )
        )
