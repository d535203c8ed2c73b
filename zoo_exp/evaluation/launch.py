"""Lightning's Trainer as evaluation needs it: ranks from the Trainer, srun or torchrun, and nothing repeated."""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from zoo_exp.config.schema import TrainerConfig
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import stop

_LARGEST_STEP = 2**31
"""SLURM numbers the steps of `srun` from 0; a batch script and an interactive shell have numbers above this."""


def make_trainer(config: TrainerConfig, root: Path, callbacks: list[Callback]) -> lightning.Trainer:
    """A Trainer that brings devices and ranks; records and metrics are ours.

    Under `srun` the number of processes is SLURM's, whatever the configuration says.

    Args:
        config: what the experiment says.
        root: folder for anything that Lightning would write.
        callbacks: of ours.

    Raises:
        InvalidValueError: devices or a strategy that the machine does not have.
    """
    options: dict[str, Any] = {
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": config.strategy,
    }
    if under_srun(os.environ):
        # The host that srun runs on is the first node of a batch job; node names need not resolve.
        if address := os.environ.get("SLURM_LAUNCH_NODE_IPADDR"):
            os.environ.setdefault("MASTER_ADDR", address)
        options |= slurm_shape(os.environ) | {"plugins": [SLURMEnvironment(auto_requeue=False)]}
    elif "TORCHELASTIC_RUN_ID" not in os.environ:
        # Also inside a SLURM allocation: without srun there is this one process.
        options["plugins"] = [LightningEnvironment()]
    try:
        return lightning.Trainer(
            accelerator=config.accelerator,
            **options,
            callbacks=callbacks,
            use_distributed_sampler=False,  # `shard` is exact; Lightning's repeats samples
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            inference_mode=True,
            default_root_dir=root,
        )
    except (MisconfigurationException, ValueError) as error:
        raise InvalidValueError(
            f"trainer: {error} (given: accelerator={config.accelerator}, devices={options['devices']}, "
            f"num_nodes={options['num_nodes']}, strategy={options['strategy']})"
        ) from error


def under_srun(environment: MutableMapping[str, str]) -> bool:
    """Whether `srun` started this process, so that its siblings exist already."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < _LARGEST_STEP and "SLURM_PROCID" in environment


def slurm_shape(environment: MutableMapping[str, str]) -> dict[str, Any]:
    """Devices, nodes and strategy that fit the tasks that `srun` started."""
    nodes = int(environment.get("SLURM_NNODES", "1"))
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    return {"devices": tasks // nodes, "num_nodes": nodes, "strategy": "ddp" if tasks > 1 else "auto"}


def meet(trainer: lightning.Trainer) -> None:
    """Wait until every rank has come here, and go on listening to signals meanwhile.

    A plain barrier blocks Python's signal handlers, so that a rank which is ready would miss the order to stop for as
    long as another one works.

    Raises:
        Stopped: a signal came, or another rank left because one came.
    """
    if stop.requested():
        raise stop.Stopped
    if trainer.world_size == 1:
        return
    gpu = trainer.strategy.root_device.type == "cuda"
    options = {"device_ids": [trainer.strategy.root_device.index]} if gpu else {}
    try:
        work = torch.distributed.barrier(async_op=True, **options)
        while not work.is_completed():
            if stop.requested():
                raise stop.Stopped
            time.sleep(0.02)
        work.wait()
    except RuntimeError as error:  # the other rank is gone; it may have heard the signal first
        if stop.requested():
            raise stop.Stopped from error
        raise


def share_threads(trainer: lightning.Trainer) -> None:
    """Let the ranks of a machine share its cores: torch counts all of them for every process."""
    if "OMP_NUM_THREADS" not in os.environ:
        ranks = trainer.num_devices if trainer.world_size > 1 else 1
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // ranks))
