"""Lightning's Trainer for evaluation: ranks from the Trainer, srun or torchrun; no repeated samples."""

import itertools
import os
import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_exp import slow_imports
from zoo_exp.config.schema import TrainerConfig
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import stop

slow_imports.torchmetrics()  # before Lightning, which imports it

import lightning  # noqa: E402
from lightning.pytorch.callbacks import Callback  # noqa: E402
from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment  # noqa: E402
from lightning.pytorch.utilities.exceptions import MisconfigurationException  # noqa: E402

_LARGEST_STEP = 2**31
"""SLURM numbers the steps of `srun` from 0; batch scripts and interactive shells have step ids above this."""


def make_trainer(config: TrainerConfig, root: Path, callbacks: list[Callback]) -> lightning.Trainer:
    """A Trainer for devices and ranks, without logging and checkpoints.

    Under `srun` SLURM determines the number of processes, not the configuration.

    Args:
        config: from the experiment.
        root: Lightning's default folder.
        callbacks: further callbacks.

    Raises:
        InvalidValueError: devices or a strategy that are not available.
    """
    options: dict[str, Any] = {
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": config.strategy,
    }
    if under_srun(os.environ):
        # srun runs on the first node of a batch job; node names may not resolve.
        if address := os.environ.get("SLURM_LAUNCH_NODE_IPADDR"):
            os.environ.setdefault("MASTER_ADDR", address)
        options |= slurm_shape(os.environ) | {"plugins": [SLURMEnvironment(auto_requeue=False)]}
    elif "TORCHELASTIC_RUN_ID" not in os.environ:
        # Without srun there is one process, also inside a SLURM allocation.
        options["plugins"] = [LightningEnvironment()]
    try:
        return lightning.Trainer(
            accelerator=config.accelerator,
            **options,
            callbacks=callbacks,
            use_distributed_sampler=False,  # `shard` is exact; Lightning's sampler repeats samples
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
    """Whether `srun` started this process, and with it the other ranks."""
    step = environment.get("SLURM_STEP_ID", "")
    return step.isdigit() and int(step) < _LARGEST_STEP and "SLURM_PROCID" in environment


def started_outside(environment: MutableMapping[str, str]) -> bool:
    """Whether `srun` or `torchrun` started the ranks, as opposed to rank 0."""
    return under_srun(environment) or "TORCHELASTIC_RUN_ID" in environment


def slurm_shape(environment: MutableMapping[str, str]) -> dict[str, Any]:
    """Devices, nodes and strategy that match the tasks started by `srun`."""
    nodes = int(environment.get("SLURM_NNODES", "1"))
    tasks = int(environment.get("SLURM_NTASKS", "1"))
    return {"devices": tasks // nodes, "num_nodes": nodes, "strategy": "ddp" if tasks > 1 else "auto"}


def meet(trainer: lightning.Trainer) -> None:
    """A barrier that keeps handling signals while it waits.

    A plain barrier blocks Python's signal handlers: a waiting rank would not notice a signal to stop until all others
    arrive.

    Raises:
        Stopped: a signal arrived here or at another rank.
    """
    if stop.requested():
        raise stop.Stopped
    if trainer.world_size == 1:
        return
    gpu = trainer.strategy.root_device.type == "cuda"
    options: dict[str, Any] = {"device_ids": [trainer.strategy.root_device.index]} if gpu else {}
    _wait(lambda: torch.distributed.barrier(async_op=True, **options))


def gather(tensor: Tensor, group: Any = None) -> list[Tensor]:
    """The tensors of all ranks, in the order of the ranks; like `meet`, it keeps handling signals while it waits.

    A rank that received a signal while it waited in `meet` has left, although the others may have passed it.

    Args:
        tensor: one dimension, whose length may differ between ranks [n].
        group: the ranks; None for all.

    Raises:
        Stopped: a signal arrived here or at another rank.
    """
    distributed = torch.distributed
    own = torch.tensor([len(tensor)], device=tensor.device)
    lengths = [torch.zeros_like(own) for _ in range(distributed.get_world_size(group))]
    _wait(lambda: distributed.all_gather(lengths, own, group=group, async_op=True))
    sizes = [int(length) for length in lengths]
    padded = torch.nn.functional.pad(tensor, (0, max(sizes) - len(tensor)))
    parts = [torch.empty_like(padded) for _ in sizes]
    if max(sizes):
        _wait(lambda: distributed.all_gather(parts, padded, group=group, async_op=True))
    return [part[:size] for part, size in zip(parts, sizes, strict=True)]


def _wait(start: Callable[[], Any]) -> None:
    """Start a collective operation of all ranks and wait for its end.

    Raises:
        Stopped: a signal arrived here or at another rank.
    """
    try:
        work = start()
        for number in itertools.count():
            if work.is_completed():
                break
            if stop.requested():
                raise stop.Stopped
            time.sleep(min(0.02, 0.001 * number))  # short at first: most ranks arrive together
        work.wait()
    except RuntimeError as error:  # the other rank has left; it may have received the signal first
        if stop.requested():
            raise stop.Stopped from error
        raise
