"""A GPU that is pretended: tensors that say `cuda` and hold values, on a machine and a build of torch without one.

Each tensor is a fake of `FakeTensorMode`, which says `cuda`, and holds a tensor of the CPU, which has the values. An
operation runs on the values; if it takes tensors of both devices, it runs on fakes as well, which refuse what CUDA
refuses. Where the host needs a value of the GPU, it waits for the GPU to finish what
is queued: such an operation is noted with its place in the code.
"""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers.utils import import_utils

import zoo_exp

GPU, CPU = torch.device("cuda:0"), torch.device("cpu")
HOME = str(Path(zoo_exp.__file__).parent) + "/"
_SKIPPED = (
    str(Path(torch.__file__).parent) + "/",
    __file__,
    str(Path(sys.modules["contextlib"].__file__ or "")),
)
_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
_CUDA_SLOT, _META_SLOT, _SLOTS = 1, 14, 21
"""Places in the table of device guards: `c10::DeviceType`."""
_values = torch._C._DisableTorchDispatch
_aten = torch.ops.aten
WAITS = {
    _aten._local_scalar_dense: "item",
    _aten.nonzero: "nonzero",
    _aten.masked_select: "masked_select",
    _aten._unique2: "unique",
    _aten.unique_dim: "unique",
    _aten.unique_consecutive: "unique",
    _aten.bincount: "bincount",
    _aten.equal: "equal",
    _aten.repeat_interleave: "repeat_interleave",
}
"""Operations whose result has a size or a value that the host needs -> what they are called here."""


@dataclass(frozen=True)
class Wait:
    """The host waits for the GPU.

    Attributes:
        kind: `item` (also `int`, `float`, `bool` and `if`), `nonzero`, `tolist`, `mask` (an index of booleans),
            `to cpu`, `from cpu` (a copy that is not `non_blocking`) ...
        file: in which it happens, below `zoo_exp/`, or `transformers` or another package.
        function: in which it happens.
        caller: the innermost function of `zoo_exp` that led there, as `file:function`.
    """

    kind: str
    file: str
    function: str
    caller: str


@contextmanager
def _guarded() -> Iterator[None]:
    """Let calls of Python switch to the GPU, which does nothing: a build for CPUs has no guard, and refuses.

    `FakeTensorMode` does so itself in builds for CUDA on machines without a GPU.
    """
    library = ctypes.CDLL(str(next((Path(torch.__file__).parent / "lib").glob("libc10.*"))))
    table = (ctypes.c_void_p * _SLOTS).in_dll(library, _GUARDS)
    before = table[_CUDA_SLOT]
    if before is None:
        table[_CUDA_SLOT] = table[_META_SLOT]
    try:
        yield
    finally:
        table[_CUDA_SLOT] = before


class _WithoutDriver(TorchFunctionMode):
    """Calls that look for a GPU in C++ take another way: literals are copied, attention is the plain formula."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace two functions."""
        kwargs = dict(kwargs or {})
        if func is torch.nn.functional.scaled_dot_product_attention:
            mask = kwargs.get("attn_mask")
            if mask is not None and mask.dtype == torch.bool:
                kwargs["attn_mask"] = torch.zeros_like(mask, dtype=args[0].dtype).masked_fill(
                    ~mask, float("-inf")
                )
            return _aten._scaled_dot_product_attention_math(*args, **kwargs)[0]
        if func is not torch.tensor or torch.device(kwargs.get("device") or CPU).type != "cuda":
            return func(*args, **kwargs)
        values = tree_map(lambda x: x.item() if isinstance(x, Tensor) else x, args[0])
        return torch.tensor(values, dtype=kwargs.get("dtype")).to(kwargs["device"])


class PretendGPU(TorchDispatchMode):
    """Inside the block tensors may live on `GPU`; `waits` notes synchronisations while `noting`."""

    def __init__(self) -> None:
        super().__init__()
        self.fakes = FakeTensorMode()
        self.waits: list[Wait] = []
        self.noting = True

    def move(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU on the pretended GPU."""
        fake: Any = self._fake(tensor, GPU)
        fake.held = tensor
        return fake  # type: ignore[no-any-return]

    def _fake(self, tensor: Tensor, device: torch.device) -> FakeTensor:
        with _values():
            like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
            return FakeTensor(self.fakes, like, device)

    def move_model(self, model: nn.Module) -> nn.Module:
        """Move parameters and buffers of a model, in place."""
        for module in model.modules():
            for name, parameter in list(module._parameters.items()):
                if parameter is not None:
                    module._parameters[name] = nn.Parameter(
                        self.move(parameter.detach()), requires_grad=False
                    )
                    module._parameters[name].held = parameter.detach()
            for name, buffer in list(module._buffers.items()):
                if buffer is not None:
                    module._buffers[name] = self.move(buffer)
        return model

    @contextmanager
    def active(self) -> Iterator["PretendGPU"]:
        """Enter the mode; `tolist` of a tensor on the GPU is one wait."""
        tolist = FakeTensor.tolist

        def once(tensor: Any) -> Any:
            self._note("tolist")
            return tensor.held.tolist()

        FakeTensor.tolist = once
        # `transformers` looks at no value of a fake tensor, because it could be traced; these have values.
        is_fake, import_utils.is_fake_tensor = import_utils.is_fake_tensor, lambda x: False
        try:
            with (
                _guarded(),
                self.fakes,
                self,
                _WithoutDriver(),
            ):
                yield self
        finally:
            FakeTensor.tolist, import_utils.is_fake_tensor = tolist, is_fake

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the values, and check devices on fakes."""
        kwargs = kwargs or {}
        if func is torch.ops.prim.device.default:
            return args[0].fake_device
        given: list[Any] = []
        tree_map(lambda x: given.append(x) if isinstance(x, Tensor) else None, (args, kwargs))
        named = kwargs.get("device")
        on_gpu = any(isinstance(x, FakeTensor) for x in given) or (
            named is not None and torch.device(named).type == "cuda"
        )
        if not on_gpu:
            with _values():
                return func(*args, **kwargs)
        values = tree_map(lambda x: x.held if isinstance(x, FakeTensor) else x, (args, kwargs))
        if named is not None:
            values[1]["device"] = CPU
        kind = self._kind(func, args, kwargs)
        if kind is not None:
            self._note(kind)
        with _values():
            real = func(*values[0], **values[1])
        origin = {id(x.held if isinstance(x, FakeTensor) else x): x for x in given}
        mixed = any(not isinstance(x, FakeTensor) for x in given)
        if func.overloadpacket in WAITS:
            mixed = False
        devices = (
            self._devices(func, args, kwargs) if mixed else iter(lambda: torch.device(named or GPU), None)
        )

        def back(x: Any) -> Any:
            if not isinstance(x, Tensor):
                return x
            device = next(devices)
            if id(x) in origin:
                return origin[id(x)]
            return self.move(x) if device.type == "cuda" else x

        return tree_map(back, real)

    def _devices(self, func: Any, args: Any, kwargs: Any) -> Iterator[torch.device]:
        """Devices of the results of an operation with tensors of both devices.

        Raises:
            RuntimeError: the operation does not take both.
        """
        known: dict[int, FakeTensor] = {}

        def faked(x: Any) -> Any:
            if not isinstance(x, Tensor) or isinstance(x, FakeTensor):
                return x
            if id(x) not in known:
                known[id(x)] = self._fake(x, CPU)
            return known[id(x)]

        results: list[torch.device] = []
        fake = func(*tree_map(faked, args), **tree_map(faked, kwargs))
        tree_map(lambda x: results.append(x.device) if isinstance(x, Tensor) else None, fake)
        return iter(results)

    def _kind(self, func: Any, args: Any, kwargs: Any) -> str | None:
        """Why the host waits in this operation, or None."""
        packet = func.overloadpacket
        if packet in WAITS:
            return WAITS[packet]
        if packet in (_aten.index, _aten.index_put, _aten.index_put_):
            indices = [x for x in args[1] if x is not None]
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices):
                filled = packet is not _aten.index and args[2].numel() == 1
                return None if filled else "mask"
            if any(not isinstance(x, FakeTensor) for x in indices):
                return "from cpu"
        if packet in (_aten._to_copy, _aten.copy_):
            source = args[1] if packet is _aten.copy_ else args[0]
            target = (
                args[0].device
                if packet is _aten.copy_
                else torch.device(kwargs.get("device") or source.device)
            )
            blocking = not (
                kwargs.get("non_blocking") or (packet is _aten.copy_ and len(args) > 2 and args[2])
            )
            if not source.numel():
                return None
            if source.device.type != target.type and (blocking or target.type == "cpu"):
                return "to cpu" if target.type == "cpu" else "from cpu"
        return None

    def _note(self, kind: str) -> None:
        if not self.noting:
            return
        frame, first, caller = sys._getframe(2), None, ""
        while frame is not None:
            path = frame.f_code.co_filename
            if not path.startswith(_SKIPPED):
                first = first or (path, frame.f_code.co_qualname)
                if path.startswith(HOME):
                    caller = f"{path.removeprefix(HOME)}:{frame.f_code.co_qualname}"
                    break
            frame = frame.f_back
        path, function = first or ("", "")
        file = path.removeprefix(HOME) if path.startswith(HOME) else _package(path)
        self.waits.append(Wait(kind, file, function, caller))


def _package(path: str) -> str:
    parts = Path(path).parts
    return parts[parts.index("site-packages") + 1] if "site-packages" in parts else Path(path).name
