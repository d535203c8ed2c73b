"""The number of processes, the share of the samples of each, and how they wait for each other."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zoo_exp.config.schema import TrainerConfig
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import launch, stop
from zoo_exp.evaluation.sample_batches import shard

STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}


@given(todo=st.lists(st.integers(), unique=True), world=st.integers(1, 9))
def test_shards_are_a_partition_except_for_ranks_without_work(todo, world):
    parts = [shard(todo, rank, world) for rank in range(world)]
    busy = parts[: len(todo)]
    assert sorted(number for part in busy for number in part) == sorted(todo)
    assert all(part == todo[-1:] for part in parts[len(todo) :])
    assert max(map(len, busy), default=0) - min(map(len, busy), default=0) <= 1


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        (STEP, True),
        ({}, False),
        (
            {"SLURM_JOB_ID": "3", "SLURM_NTASKS": "2", "SLURM_PROCID": "0"},
            False,
        ),  # a batch script without srun
        ({**STEP, "SLURM_STEP_ID": "4294967290"}, False),  # a shell inside an allocation
    ],
)
def test_only_srun_starts_the_other_ranks(environment, expected):
    assert launch.under_srun(environment) is expected


def test_slurm_determines_the_number_of_processes():
    shape = launch.slurm_shape({"SLURM_NNODES": "2", "SLURM_NTASKS": "8"})
    assert shape == {"devices": 4, "num_nodes": 2, "strategy": "ddp"}
    assert launch.slurm_shape({}) == {"devices": 1, "num_nodes": 1, "strategy": "auto"}


@pytest.mark.parametrize("wrong", [{"accelerator": "gpuu"}, {"strategy": "dddp"}])
def test_an_impossible_trainer_is_refused_with_the_given_values(tmp_path, wrong):
    with pytest.raises(InvalidValueError, match=f"trainer: .*given: .*{next(iter(wrong.values()))}"):
        launch.make_trainer(TrainerConfig(**wrong), tmp_path, [])


def test_one_process_in_an_allocation_does_not_wait_for_others(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_JOB_NAME", "mine")
    trainer = launch.make_trainer(TrainerConfig(accelerator="cpu"), tmp_path, [])
    assert (trainer.world_size, trainer.global_rank) == (1, 0)


class Lasting:
    """A collective operation that another rank never joins; a signal arrives while this rank waits."""

    looks = 0

    def is_completed(self):
        """Never."""
        self.looks += 1
        if self.looks == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        assert self.looks < 100, "the signal was not noticed"
        return False


def test_a_rank_that_waits_for_scores_of_one_that_has_left_notices_a_signal(monkeypatch):
    waiting = Lasting()
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    monkeypatch.setattr(torch.distributed, "all_gather", lambda *args, **options: waiting)
    with stop.listening(), pytest.raises(stop.Stopped):
        launch.gather(torch.ones(2))
    assert waiting.looks == 3


def test_a_rank_that_waits_at_the_end_notices_a_signal(monkeypatch):
    waiting = Lasting()
    monkeypatch.setattr(torch.distributed, "barrier", lambda **options: waiting)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    with stop.listening(), pytest.raises(stop.Stopped):
        launch.meet(SimpleNamespace(world_size=2, strategy=strategy))
    assert waiting.looks == 3
