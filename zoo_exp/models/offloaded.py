"""Weights of models that accelerate offloads to the CPU or to disk, which are on the meta device between calls."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import chain
from typing import Any

from torch import nn

_PUT_ON = ("_hf_hook", "_old_forward", "forward")
"""What accelerate's `add_hook_to_module` sets on a module."""


def is_offloaded(module: nn.Module) -> bool:
    """Whether hooks of accelerate load weights of a module, or of one in it, at every call."""
    return any(map(_loads, module.modules()))


@contextmanager
def at_hand(module: nn.Module) -> Iterator[None]:
    """Load the offloaded weights of a module and of all in it to the device they run on; inside, do not call it."""
    with ExitStack() as stack:
        for inner in filter(_loads, module.modules()):
            from accelerate.utils import align_module_device

            stack.enter_context(align_module_device(inner))
        yield


def loaded_copy(module: nn.Module) -> nn.Module:
    """A copy of an offloaded module with its weights and without hooks; a module that is not offloaded itself."""
    if not is_offloaded(module):
        return module
    hooks = [m._hf_hook for m in module.modules() if hasattr(m, "_hf_hook")]
    kept_out: dict[int, Any] = {
        id(hook): None for hook in hooks
    }  # a hook holds the weights of the whole model
    with at_hand(module):
        made = copy.deepcopy(module, kept_out)
    for inner in made.modules():
        for name in _PUT_ON:
            inner.__dict__.pop(name, None)
    return made


def _loads(module: nn.Module) -> bool:
    """Whether a hook of accelerate loads weights of the module itself, which are not here now."""
    mine = chain(module.parameters(recurse=False), module.buffers(recurse=False))
    return hasattr(module, "_hf_hook") and any(t.is_meta for t in mine)
