"""Records in columns: the numbers of a slow computation from whole records, in memory of a few bytes per record."""

import gc
import json
import math
import tracemalloc

import numpy as np
import pytest
from made_up_run import TASKS, arms, manifest, write_jsonl

from zoo_exp import tasks
from zoo_exp.errors import MissingFileError
from zoo_exp.report.runs import results_of
from zoo_exp.runs import packed, run_answers
from zoo_exp.runs.load import load_run
from zoo_exp.runs.packed import Column
from zoo_exp.runs.reading import read_records
from zoo_exp.runs.run_answers import Answers, read_answers
from zoo_exp.statistics import alignment, tallies
from zoo_exp.statistics.bootstrap import percentile_interval, weights
from zoo_exp.statistics.compare_runs import compare_runs
from zoo_exp.tasks.base import exact_sums

DRAWS = 200


def slow(records, name):
    """Metric of every arm of a task and its draws, from a data frame of whole records [A], [B, A]."""
    task = tasks.get(name)
    mine = records[records["task"] == name].sort_values("sample_id", kind="stable")
    images = sorted(mine["image_id"].unique())
    ids = [arm["arm_id"] for arm in arms()]
    values, sums = [], {}
    for place, arm in enumerate(ids):
        own = mine[mine["arm_id"] == arm]
        rows = [{"sample_id": s, **p} for s, p in zip(own["sample_id"], own["parts"], strict=True)]
        values.append(task.metrics(exact_sums(task.tallies(rows)))[task.main_metric])
        image = dict(zip(own["sample_id"], own["image_id"], strict=True))
        for tally in task.tallies(rows):
            for key, amount in tally.counts.items():
                table = sums.setdefault(key, np.zeros((len(images), len(ids))))
                table[images.index(image[tally.unit]), place] += amount
    names = sorted(sums)
    flat = np.stack([sums[key] for key in names], axis=1).reshape(len(images), -1)
    drawn = weights([task.image_key(image) for image in images], DRAWS, 0) @ flat
    drawn = drawn.reshape(DRAWS, len(names), len(ids))
    metrics = task.metrics({key: drawn[:, k] for k, key in enumerate(names)})
    return np.array(values), metrics[task.main_metric], len(images)


def test_numbers_are_those_of_a_slow_computation_from_whole_records(make_whole_run, monkeypatch):
    """Values and intervals of a report and of `compare`, with questions in parts that are smaller than the task."""
    run = make_whole_run()
    monkeypatch.setattr(tallies, "PART", 7)
    monkeypatch.setattr(run_answers, "MOST_PARTS", 3)  # most score parts are read again
    loaded = load_run(run)
    found, records = results_of(loaded, draws=DRAWS), loaded.records
    pair = compare_runs([run], ["zoo multiply @16", "zoo none @16"], draws=DRAWS).pairs[0]
    for name in TASKS:
        values, drawn, images = slow(records, name)
        scale = found.scales[name]
        for place, label in ((1, "zoo multiply @16"), (2, "zoo none @16")):
            line = found.lines[label][name]
            assert line["value"] == values[place]
            if line["interval"] != tallies.WILSON:
                interval = percentile_interval(drawn[:, place], images)
                assert (line["low"], line["high"]) == pytest.approx((interval.low, interval.high), rel=1e-12)
            assert line["retained"] == pytest.approx(100 * values[place] / values[0], rel=1e-12)
            own = records[(records["task"] == name) & (records["arm"] == label)]
            assert line["kept_tokens"] == own["kept_tokens"].mean()
        interval = percentile_interval(drawn[:, 1] - drawn[:, 2], images).scaled(scale)
        line = pair.frame.set_index("task").loc[name]
        assert line["difference"] == pytest.approx(scale * (values[1] - values[2]), rel=1e-12)
        assert (line["low"], line["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
    by_key = records.set_index(["task", "arm", "sample_id"]).sort_index()
    for line in pair.changed.to_dict("records"):
        for side, label in (("first", "zoo multiply @16"), ("second", "zoo none @16")):
            record = by_key.loc[line["task"], label, line["sample_id"]]
            assert line[f"{side}_response"] == record["response"]
            assert line[f"{side}_score"] == record["score"]
        assert line["question"] == record["question"]
    assert pair.changes.frame(3).equals(pair.changed.head(3))


def test_answers_are_the_records(make_whole_run):
    run = make_whole_run()
    lines = (run / "records.jsonl").read_text().splitlines(keepends=True)
    (run / "records.jsonl").write_text("".join([*lines, lines[0]]))  # a record twice
    frame = read_records(run)
    for found in (read_answers(run, texts=True), Answers.of(frame)):
        assert len(found) == len(frame) == len(lines)
        for (task, arm), mine in frame.groupby(["task", "arm_id"]):
            own = found.tasks[task].arms[arm]
            assert [found.tasks[task].sample_ids[n] for n in own.values("sample")] == mine[
                "sample_id"
            ].tolist()
            assert [found.tasks[task].images[n] for n in own.values("image")] == mine["image_id"].tolist()
            assert own.values("score").tolist() == mine["score"].tolist()
            assert np.isnan(own.values("layer_tokens")).all()
            texts = [own.store.row(place)["response"] for place in own.values("place").tolist()]
            assert texts == mine["response"].tolist()
            assert own.values("response").tolist() == [hash(text) for text in texts]
    assert [arm["arm_id"] for arm in found.arms] == frame["arm_id"].unique().tolist()
    few = read_answers(run, {"full-0"}).tasks["embedded_gqa"]
    assert list(few.arms) == ["full-0"]


def test_texts_of_a_file_that_was_replaced_meanwhile_are_those_that_were_read(make_whole_run):
    """A merge replaces the file while a report is made; a file that had to be closed is refused, not misread."""
    run = make_whole_run()
    own = read_answers(run).tasks["embedded_gqa"].arms["full-0"]
    other = run / "other"
    other.write_text("{}\n" * 10)
    other.rename(run / "records.jsonl")
    assert own.store.row(int(own.columns["place"][0]))["arm_id"] == "full-0"
    files = own.store.files
    files.close()
    with pytest.raises(MissingFileError, match="has changed while it was read"):
        own.store.row(int(own.columns["place"][0]))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("q", np.arange(30_000)),
        ("q", np.random.default_rng(0).integers(-(2**62), 2**62, 20_000)),
        ("q", np.array([-(2**63), 2**63 - 1, 0])),
        ("d", np.random.default_rng(0).random(20_000)),
        ("d", np.tile([0.3, math.nan, -0.0, 0.0, math.inf], 5000)),
        ("d", np.full(9000, math.nan)),
        ("d", np.array([])),
    ],
)
def test_columns_give_back_every_bit(kind, values):
    appended = Column(kind)
    for value in values.tolist():
        appended.append(value)
        appended.pack()
    appended.pack(last=True)
    for column in (appended, Column(kind, values)):
        assert len(column) == len(values)
        assert column.values().tobytes() == values.tobytes()
    assert all(appended[place] is not None for place in range(0, len(values), 4999))


def write_run(run, questions):
    """Three arms of one task; each question has its own image and cost."""
    run.mkdir()
    shown = arms()[:3]
    rows = [
        {key: arm[key] for key in ("arm", "arm_id", "selector", "options", "budget", "seed_index")}
        | {"task": "embedded_gqa", "sample_id": f"{n:06d}", "image_id": f"image {n}", "cell": "c"}
        | {"question": f"what is {n}?", "reference": "yes", "response": f"a long response {n}" * 5}
        | {"score": float(n % 3 > 0), "parts": {"score": float(n % 3 > 0), "text": f"{n} {arm['arm']}"}}
        | {"kept_tokens": 16, "n_visual": 144, "flops_tflop": 1 + n / 7}
        for arm in shown
        for n in range(questions)
    ]
    write_jsonl(run / "records.jsonl", rows)
    content = manifest()
    content["experiment"] |= {"tasks": ["embedded_gqa"], "arms": shown}
    (run / "experiment.json").write_text(json.dumps(content, default=str))
    return len(rows)


def peak_of(work):
    gc.collect()
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_per_record_is_that_of_a_few_numbers(tmp_path, monkeypatch):
    """The worst case: distinct score parts, costs and responses, three arms. Whole records take 2 kB each."""
    for module in (packed, run_answers, alignment):
        monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(tallies, "PART", 32)
    monkeypatch.setattr(run_answers, "MOST_PARTS", 50)
    sizes = [write_run(tmp_path / str(n), n) for n in (200, 700)]
    report = [lambda n=n: results_of(load_run(tmp_path / str(n)), draws=10) for n in (200, 700)]
    pairs = ["zoo multiply @16", "zoo none @16"]
    both = [lambda n=n: compare_runs([tmp_path / str(n)], pairs, draws=10).pairs for n in (200, 700)]
    for few, many in (report, both):
        few()  # imports and caches
        slope = (peak_of(many) - peak_of(few)) / (sizes[1] - sizes[0])
        assert slope < 300, slope
