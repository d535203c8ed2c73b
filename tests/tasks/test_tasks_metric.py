"""The torchmetrics metric: one process, several, uneven shards, samples seen twice."""

import json
import os
import random
from pathlib import Path

import pytest
import torch.distributed as dist
import torch.multiprocessing as mp

from zoo_exp import tasks
from zoo_exp.errors import InvalidValueError

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


def single(task, rows):
    return task.aggregate([{"sample_id": sample_id, **parts} for sample_id, parts in rows])


@pytest.mark.parametrize(("name", "file"), CASES)
def test_the_metric_is_the_aggregate_whatever_the_order_and_the_repeats(name, file):
    task, rows = scored(name, file)
    metric = task.metric()
    seen = rows + rows[:7]
    random.Random(0).shuffle(seen)
    for start in range(0, len(seen), 5):
        ids, parts = zip(*seen[start : start + 5], strict=True)
        metric.update(ids, parts)
    assert metric.compute() == single(task, rows)  # equal to the last bit, not about equal
    metric.reset()
    metric.update(*zip(*rows, strict=True))
    assert metric.compute() == single(task, rows)


def test_ids_and_parts_go_together():
    with pytest.raises(InvalidValueError, match="2 sample ids for 1 scores"):
        tasks.get("gqa").metric().update(["a", "b"], [{"score": 1.0}])


def test_an_empty_metric_says_so():
    metric = tasks.get("gqa").metric()
    with pytest.warns(UserWarning, match="before the"), pytest.raises(InvalidValueError, match="no rows"):
        metric.compute()


def test_of_two_results_for_one_sample_the_choice_does_not_depend_on_who_came_first():
    values = []
    for order in ((0.0, 1.0), (1.0, 0.0)):
        metric = tasks.get("gqa").metric()
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
        metric = task.metric()
        metric.update(*zip(*mine, strict=True))
        results[name] = metric.compute()
    Path(folder, f"rank{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def test_two_processes_with_uneven_repeated_shards_equal_one(tmp_path):
    mp.spawn(_rank, args=(str(tmp_path),), nprocs=2)
    results = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    expected = {name: single(*scored(name, file)) for name, file in CASES}
    assert results == [expected, expected]
