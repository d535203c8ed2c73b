"""Unwrap models from PEFT and torch.compile, and refuse wrappers that cannot be pruned."""

from typing import Any

import torch
from torch import nn

from zoo_exp.errors import InvalidValueError

_PARALLEL = ("DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "DeepSpeedEngine")


def held_model(model: Any) -> Any:
    """The Hugging Face model inside a wrapper, or the model itself.

    Args:
        model: a Hugging Face model, a `PeftModel`, or the result of `torch.compile`.

    Raises:
        InvalidValueError: a wrapper that copies or shards the model in every call, so that hooks are lost.
    """
    name = type(model).__name__
    if name in _PARALLEL:
        raise InvalidValueError(
            f"{name} cannot be pruned: it copies or shards the model at every call. Give the model inside "
            "(model.module) on one device, or load it with device_map='auto'"
        )
    inner = getattr(model, "_orig_mod", None)  # torch.compile
    if isinstance(inner, nn.Module):
        return held_model(inner)
    if callable(getattr(model, "get_base_model", None)):  # PEFT
        return held_model(model.get_base_model())
    if isinstance(model, nn.Module) and any(map(_is_sharded, model.modules())):
        raise InvalidValueError(
            f"{name} cannot be pruned: fully_shard has split its weights, which generate and a selector cannot read "
            "outside of forward. Prune a model that was not sharded, on one device or with device_map='auto'"
        )
    return model


def _is_sharded(module: nn.Module) -> bool:
    """Whether `torch.distributed.fsdp.fully_shard` was applied, which replaces the class of a module."""
    return any(c.__name__ == "FSDPModule" for c in type(module).__mro__)


def forget_compiled(model: Any) -> None:
    """Force recompilation of code that was compiled with other hooks.

    TorchDynamo ignores changes of hooks in compiled modules: a model that was compiled before pruning would silently
    remain unpruned.
    """
    if not isinstance(model, nn.Module):
        return
    if any(m._compiled_call_impl is not None for m in model.modules()) or _dynamo_has_run():
        torch.compiler.reset()


def refuse_compiled_call() -> None:
    """Refuse to process images inside a compiled call, whose code ignores state recorded by hooks.

    Raises:
        InvalidValueError: a compiled call is running.
    """
    if torch._C._dynamo.eval_frame.get_eval_frame_callback() not in (None, False):
        raise InvalidValueError(
            "a call compiled by torch.compile cannot be pruned while it reads images: call the model itself, or its "
            "generate, inside the block"
        )


def _dynamo_has_run() -> bool:
    """Whether TorchDynamo is loaded and has compiled something in this process."""
    import sys

    counters = getattr(sys.modules.get("torch._dynamo.utils"), "counters", None)
    return bool(counters and sum(counters.get("frames", {}).values()))
