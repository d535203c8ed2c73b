"""The number of processes, and the share of the samples of each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo_exp.config.schema import TrainerConfig
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import launch
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
