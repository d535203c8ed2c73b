"""The torchmetrics metric: one process, several, uneven shards, samples seen twice."""

import json
import os
import random
import tracemalloc
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import launch
from zoo_exp.tasks import metric as metric_module
from zoo_exp.tasks.metric import TaskMetric, Units

GOLDEN = Path(__file__).parents[1] / "golden" / "scoring"


def scored(name, file):
    task = tasks.get(name)
    rows = []
    for number, case in enumerate(json.loads((GOLDEN / f"{file}.json").read_text())["cases"]):
        doc = {**case["doc"], "row": number}
        rows.append((task.sample_id(doc), task.score(doc, case["response"])))
    return task, rows


CASES = [("gqa", "gqa"), ("pope", "pope"), ("mme", "mme"), ("mmmu_val_serial", "mmmu_val")]
CASES += [("mmbench_en_dev_static", "mmbench_en_dev"), ("seedbench", "seedbench")]


def units_of(task, rows):
    """The units of golden rows, as a run takes them from the data."""
    return Units.counted([name for name, _ in rows], [task.unit_name({"sample_id": n, **p}) for n, p in rows])


def single(task, rows):
    return task.aggregate([{"sample_id": sample_id, **parts} for sample_id, parts in rows])


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize(("name", "file"), CASES)
def test_the_metric_is_the_aggregate_whatever_the_order_and_the_repeats(name, file, known, monkeypatch):
    monkeypatch.setattr(metric_module, "FOLD", 500)  # packed several times on the way
    task, rows = scored(name, file)
    metric = TaskMetric(task, units_of(task, rows) if known else None)
    seen = rows + rows[:7]
    random.Random(0).shuffle(seen)
    for start in range(0, len(seen), 5):
        ids, parts = zip(*seen[start : start + 5], strict=True)
        metric.update(ids, parts)
    assert metric.compute() == single(task, rows)  # equal to the last bit, not about equal
    metric.reset()
    metric.update(*zip(*rows, strict=True))
    assert metric.compute() == single(task, rows)


def test_ids_and_parts_must_have_equal_lengths():
    with pytest.raises(InvalidValueError, match="2 sample ids for 1 scores"):
        TaskMetric(tasks.get("gqa")).update(["a", "b"], [{"score": 1.0}])


def test_an_empty_metric_is_an_error():
    metric = TaskMetric(tasks.get("gqa"))
    with pytest.warns(UserWarning, match="before the"), pytest.raises(InvalidValueError, match="no rows"):
        metric.compute()


def test_the_choice_between_duplicate_results_does_not_depend_on_their_order():
    values = []
    for order in ((0.0, 1.0), (1.0, 0.0)):
        metric = TaskMetric(tasks.get("gqa"))
        for score in order:
            metric.update(["a"], [{"score": score}])
        values.append(metric.compute()["exact_match"])
    assert values[0] == values[1]


def _rank(rank, folder):
    os.environ.update(MASTER_ADDR="127.0.0.1", RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    results = {}
    for name, file in CASES:
        task, rows = scored(name, file)
        # Rank 0 has two thirds, rank 1 the rest and, as a padded sampler would give it, some of rank 0's.
        cut = 2 * len(rows) // 3
        mine = rows[:cut] if rank == 0 else rows[cut:] + rows[:3]
        metric = TaskMetric(task, units_of(task, rows) if name.startswith("mm") else None)
        metric.update(*zip(*mine, strict=True))
        if rank:
            metric.compact()
        results[name] = metric.compute()
        alone = TaskMetric(task, sync_on_compute=False)  # only rank 1 has samples
        if rank:
            alone.update(*zip(*rows, strict=True))
        assert alone.running() == (single(task, rows) if rank else {})
        assert alone.synced() == single(task, rows)
        assert alone.synced(launch.gather) == single(task, rows)
        assert TaskMetric(task).synced() == TaskMetric(task).synced(launch.gather) == {}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_processes_with_uneven_repeated_shards_equal_one(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a pool of threads would not be there in a fork
    try:
        mp.start_processes(_rank, args=(str(tmp_path),), nprocs=2, start_method="fork")
    finally:
        torch.set_num_threads(threads)
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    expected = {name: single(*scored(name, file)) for name, file in CASES}
    assert results == [expected, expected]


@pytest.mark.parametrize("packed", [(), (0,), (1,), (0, 1)])
@pytest.mark.parametrize(("name", "file"), CASES)
def test_joined_states_of_two_ranks_equal_one(name, file, packed):
    """Units are split between the ranks, and some rows are on both; the state of either may be packed."""
    task, rows = scored(name, file)
    for units in (None, units_of(task, rows)):
        ranks = [TaskMetric(task, units), TaskMetric(task, units)]
        ranks[0].update(*zip(*rows[::2], strict=True))
        ranks[1].update(*zip(*(rows[1::2] + rows[:4:2]), strict=True))
        for number in packed:
            ranks[number].compact()
        joined = TaskMetric(task, units)
        joined.lines = torch.cat([chunk for rank in ranks for chunk in rank.lines])  # as torchmetrics does
        assert joined.running() == single(task, rows)


def test_running_values_follow_the_samples_and_compacting_changes_nothing():
    task, rows = scored("mme", "mme")
    metric = TaskMetric(task, units_of(task, rows))
    assert metric.running() == {}
    seen = []
    for start in range(0, len(rows), 7):
        metric.update(*zip(*rows[start : start + 7], strict=True))
        seen += rows[start : start + 7]
        images = [parts["image"] for _, parts in seen]
        pairs = [row for row in seen if images.count(row[1]["image"]) == 2]
        assert metric.running() == (single(task, pairs) if pairs else {})
    assert len(pairs) == len(seen)
    metric.compact()
    assert metric.running() == single(task, rows)
    metric.update(*zip(*rows[:3], strict=True))
    assert metric.running() == single(task, rows)


def test_a_running_value_needs_a_complete_unit():
    """A rotated MMBench question counts once all of its rotations are answered, not as if those so far were all."""
    task, rows = scored("mmbench_en_dev_static", "mmbench_en_dev")
    whole = {}
    for name, parts in rows:
        whole.setdefault(parts["index"] % 1_000_000, []).append((name, parts))
    question = max(whole.values(), key=len)
    assert len(question) > 2
    metric = TaskMetric(task, units_of(task, rows))
    for name, parts in sorted(question, key=lambda row: row[1]["index"])[:-1]:
        metric.update([name], [parts])
        assert metric.running() == {}
    metric.update(*zip(*question, strict=True))
    assert metric.running() == single(task, question)
    metric.update(*zip(*rows, strict=True))
    assert metric.running() == single(task, rows)


def test_memory_does_not_grow_with_the_records(monkeypatch):
    """VQAv2 has 214,354 questions: with 20 arms, their records took a gigabyte."""
    task = tasks.get("vqav2_val")
    count = 4_000
    ids = [str(number) for number in range(count)]
    units = Units.counted(ids, ids)
    monkeypatch.setattr(metric_module, "FOLD", 2000)
    metric = TaskMetric(task, units)
    parts = [{"score": score, "answer": "a" * 50} for score in (0.0, 0.3, 0.6, 0.9, 1.0)]
    metric.update(ids[:1000], [parts[n % 5] for n in range(1000)])
    metric.running()
    tracemalloc.start()
    for start in range(1000, count, 100):
        metric.update(ids[start : start + 100], [parts[n % 5] for n in range(start, start + 100)])
        value = metric.running()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    state = sum(chunk.numel() for chunk in metric.lines)
    assert kept + state < 60 * count  # more than 1,000 bytes a question before
    assert value == {"exact_match": pytest.approx(0.56)}


def test_an_unknown_sample_is_refused():
    metric = TaskMetric(tasks.get("gqa"), Units.counted(["a"], ["a"]))
    metric.update(["b"], [{"score": 1.0}])
    assert metric.running() == {}
    with pytest.raises(InvalidValueError, match="no sample of the data has the id 'b'"):
        metric.compute()


def test_forward_gives_the_value_of_the_batch_and_keeps_the_sum():
    task, rows = scored("pope", "pope")
    metric = TaskMetric(task)
    metric.running()
    for start in range(0, len(rows), 6):
        batch = rows[start : start + 6]
        assert metric(*zip(*batch, strict=True)) == single(task, batch)
    assert metric.compute() == single(task, rows)
