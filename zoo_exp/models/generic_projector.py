"""The projector of any family, found by its name and proved by its values.

A candidate is a module outside of the language model whose name says projector, merger, connector ...; it is the
projector if what it gave are the rows that the language model reads. Of its parts, in the order in which they run, the
first that reads one row per visual token is where the features are taken: pixel shuffles and poolings come before, as
they move rows. That everything behind treats rows one by one is tried on permuted rows.
"""

import copy
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.core.normed import rowwise_jacobian_square
from zoo_exp.models.capture import Call
from zoo_exp.models.generic_chain import read_chain
from zoo_exp.models.offloaded import loaded_copy

_NAMES = re.compile(
    r"project|merger|connector|aligner|adapter|resampler|embed_vision|abstractor|mm_|emb_norm", re.IGNORECASE
)
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF = 0.05
_INTEGERS = (torch.int8, torch.uint8)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class Found:
    """A projector and what it read.

    Attributes:
        features: of every visual token of the batch [N, W]; zero where `source` is -1.
        source: row of the projector's output of each visual token [N]; -1 for newlines.
        project: the projector from `features` on, [..., W] -> [..., D].
        mlp: the same in closed form, or with a Jacobian by automatic differentiation.
        path: of the module in the inner model.
        part: of the part in it that reads the features; "" for the module itself.
        per_tile: rows that the module gives for one image or tile.
        seen: `state` of the weights.
    """

    features: Tensor
    source: Tensor
    project: Callable[[Tensor], Tensor]
    mlp: Any
    path: str
    part: str
    per_tile: int
    seen: tuple[Any, ...]

    def state(self) -> tuple[Any, ...]:
        """What changes with the weights of the module."""
        tail: Any = self.project
        state: tuple[Any, ...] = tail.state()
        return state

    def read(
        self, calls: Mapping[str, Sequence[Call]], rows: Tensor, newline: Tensor | None
    ) -> "Found | None":
        """The same projector with what it read of other images; None where these do not fit it."""
        mine, inputs = calls.get(self.path), calls.get(f"{self.path}.{self.part}".rstrip("."))
        if not mine or not inputs:
            return None
        given = torch.cat([_out(call).reshape(-1, rows.shape[-1]) for call in mine])
        source = row_source(rows, given, newline)
        features = None if source is None else _blocks(mine, inputs)
        if source is None or features is None or features.shape[1] != self.features.shape[1]:
            return None
        return replace(self, features=_picked(features, source), source=source, per_tile=_per_tile(mine))


def candidates(vlm: Any, llm: Any) -> dict[str, nn.Module]:
    """Modules that may be the projector, by path; outer ones first."""
    inside = {id(m) for m in llm.modules()}
    found = {}
    for path, module in vlm.named_modules():
        last = path.rpartition(".")[2]
        if (
            path
            and id(module) not in inside
            and _NAMES.search(last)
            and not re.search(r"_proj$|^proj$", last)
        ):
            found[path] = module
    return dict(sorted(found.items(), key=lambda item: item[0].count(".")))


def parts_of(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The module itself (as ""), and all modules in it that have none in them."""
    return [("", module), *((n, m) for n, m in module.named_modules() if n and not next(m.children(), None))]


def find_projector(
    modules: Mapping[str, nn.Module],
    calls: Mapping[str, Sequence[Call]],
    rows: Tensor,
    newline: Tensor | None,
) -> Found | None:
    """The projector among the candidates that ran.

    Args:
        modules: of `candidates`.
        calls: of these and of their `parts_of`, by path.
        rows: what the language model reads [N, D].
        newline: the row that separates rows of patches [D], or None.

    Returns:
        None where no candidate gives these rows, or where none treats rows one by one.
    """
    for path, module in modules.items():
        mine = calls.get(path)
        if not mine or not all(
            isinstance(_out(c), Tensor) and _out(c).shape[-1:] == rows.shape[-1:] for c in mine
        ):
            continue
        given = torch.cat([_out(call).reshape(-1, rows.shape[-1]) for call in mine])
        source = row_source(rows, given, newline)
        if source is None:
            continue
        for part, _ in parts_of(module):
            inputs = calls.get(f"{path}.{part}".rstrip("."), ())
            found = _from_part(module, path, part, mine, inputs, given, source)
            if found is not None:
                return found
    return None


def _from_part(
    module: nn.Module,
    path: str,
    part: str,
    mine: Sequence[Call],
    inputs: Sequence[Call],
    given: Tensor,
    source: Tensor,
) -> Found | None:
    """The projector from one of its parts on, if that reads one row per token and treats rows one by one."""
    features = _blocks(mine, inputs)
    if features is None:
        return None
    count = _out(mine[0]).shape[:-1].numel()
    tail = Tail(module, part, mine[0], _input(inputs[0]), count)  # type: ignore[arg-type]
    try:
        if not _row_by_row(tail, features, given):
            return None
        mlp: Any = read_chain(tail, features[:count])
        if mlp is None and not _has_matrix(tail, features):
            return None
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    mlp = mlp or tail
    picked = _picked(features, source)
    return Found(picked, source, tail, mlp, path, part, _per_tile(mine), tail.state())


def _blocks(mine: Sequence[Call], inputs: Sequence[Call]) -> Tensor | None:
    """What a part read, as one row per row that its module gave [M, W]; None where it did not read rows."""
    read = [r for r in map(_input, inputs) if r is not None]
    counts = [_out(c).shape[:-1].numel() for c in mine]
    if len(read) != len(mine) or any(not n or r.numel() % n for n, r in zip(counts, read, strict=True)):
        return None
    blocks = [r.reshape(n, -1) for n, r in zip(counts, read, strict=True)]
    return torch.cat(blocks) if len({b.shape[1] for b in blocks}) == 1 else None


def _picked(features: Tensor, source: Tensor) -> Tensor:
    return features[source.clamp(min=0)].masked_fill((source < 0)[:, None], 0)


def _per_tile(mine: Sequence[Call]) -> int:
    out = _out(mine[0])
    return int(out.shape[-2]) if out.ndim >= 3 else len(out)


@torch.no_grad()
def _row_by_row(tail: "Tail", features: Tensor, given: Tensor) -> bool:
    """Whether the tail gives the known rows, in the order in which it gets them, and none depends on another."""
    n = min(len(features), tail.rows)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(features.device)
    limit = _HALF if _is_quantised(tail.module) else _TOLERANCE.get(given.dtype, _HALF)
    near = limit * float(given.float().abs().max())
    plain, mixed = tail(features[:n].float()), tail(features[:n][order].float())
    if not float((plain - given[:n].float()).abs().max()) <= near:
        return False
    if not float((mixed - plain[order]).abs().max()) <= near:
        return False
    changed = features[:n].float().clone()
    changed[0] = changed[0] * 1.5 + features.float().std() + 0.1
    other = tail(changed)
    moved = (other - plain).abs()
    return float(moved[0].max()) > 0 and (n == 1 or float(moved[1:].max()) <= near)


@torch.no_grad()
def _has_matrix(tail: "Tail", features: Tensor) -> bool:
    """Whether a linear layer stands in the tail: a norm alone is no projector."""
    ran: list[nn.Module] = []
    leaves = [m for m in tail.module.modules() if not next(m.children(), None)]
    handles = [m.register_forward_hook(lambda module, _, __: ran.append(module)) for m in leaves]
    try:
        tail(features[: tail.rows].float())
    finally:
        for handle in handles:
            handle.remove()
    part: Any = tail.part
    start = next((i for i, m in enumerate(ran) if any(m is p for p in part.modules())), 0)
    weights = [w for m in ran[start:] for w in m.parameters(recurse=False)]
    return any(w.ndim >= 2 or w.dtype not in _FLOATS for w in weights) or any(map(_is_packed, ran[start:]))


def row_source(rows: Tensor, given: Tensor, newline: Tensor | None) -> Tensor | None:
    """For each of `rows` [N, D] the equal one of `given` [M, D]: [N]; -1 for newlines; None where one has no equal."""
    if len(rows) == len(given) and torch.equal(rows, given):
        return torch.arange(len(rows), device=rows.device)
    generator = torch.Generator().manual_seed(0)
    key = torch.randn(rows.shape[1], generator=generator, dtype=torch.float64).to(rows.device)
    have, want = given.double() @ key, rows.double() @ key
    sorted_keys, order = have.sort()
    at = torch.searchsorted(sorted_keys, want).clamp(max=len(have) - 1)
    before = (at - 1).clamp(min=0)
    nearer = (sorted_keys[before] - want).abs() < (sorted_keys[at] - want).abs()
    source = order[torch.where(nearer, before, at)]
    equal = (given[source] == rows).all(dim=1)
    if newline is None:
        return source if bool(equal.all()) else None
    breaks = (rows == newline.to(rows)).all(dim=1)
    return source.masked_fill(breaks, -1) if bool((equal | breaks).all()) else None


class Tail:
    """A projector from one of its parts on, as a function of any number of rows, in float32.

    The module runs as it ran, and its part reads other rows: so all code between the parts is the model's own.

    Attributes:
        rows: tokens that one run of the module takes.
    """

    def __init__(self, module: nn.Module, part: str, call: Call, example: Tensor, rows: int) -> None:
        self.rows = rows
        self._source, self._part, self._call = module, part, call
        self._shape, self._dtype = example.shape, example.dtype
        self._module: nn.Module | None = None

    @property
    def module(self) -> nn.Module:
        """The module in float32: itself where it computes in float32 already, or cannot be copied to it."""
        if self._module is None:
            here = loaded_copy(self._source)
            half = all(p.dtype in (torch.float16, torch.bfloat16) and not p.is_meta for p in _weights(here))
            self._module = copy.deepcopy(here).float() if half else here
        return self._module

    @property
    def part(self) -> nn.Module:
        """The part of the module that reads the rows."""
        return self.module.get_submodule(self._part) if self._part else self.module

    def __call__(self, x: Tensor) -> Tensor:
        """Project rows [..., W] -> [..., D], in float32."""
        flat = x.reshape(-1, x.shape[-1])
        done = [self._run(part)[: len(part)] for part in flat.split(self.rows)]
        out = torch.cat(done) if done else flat
        return out.reshape(*x.shape[:-1], out.shape[-1]).to(x.dtype)

    def state(self) -> tuple[Any, ...]:
        """Changes with the module's weights."""
        return tuple(
            (w.data_ptr(), w.device, None if w.is_inference() else w._version) for w in _weights(self._source)
        )

    def jacobian_square(self, x: Tensor) -> Tensor:
        """|J|_F^2 of every row of x [N, W]: as many backward passes as the output is wide."""
        return rowwise_jacobian_square(x, self)

    def _run(self, rows: Tensor) -> Tensor:
        module, part = self.module, self.part
        if len(rows) < self.rows:
            filler = rows[:1] if len(rows) else rows.new_zeros(1, rows.shape[1])
            rows = torch.cat([rows, filler.expand(self.rows - len(rows), -1)])
        dtype = compute_dtype(part, self._dtype)
        inside = rows.to(dtype).reshape(self._shape)
        outer = compute_dtype(module, self._dtype)
        args = [_cast(a, outer) for a in self._call.args]
        named = {name: _cast(a, outer) for name, a in self._call.kwargs.items()}
        handle = part.register_forward_pre_hook(lambda _, a, k: _replaced(a, k, inside), with_kwargs=True)
        try:
            out = module(*args, **named)
        finally:
            handle.remove()
        out = out[0] if isinstance(out, tuple) else out
        flat: Tensor = out.reshape(-1, out.shape[-1])
        return flat.to(rows.dtype)


def compute_dtype(module: nn.Module, fallback: torch.dtype) -> torch.dtype:
    """What a module computes in: never the integers in which quantised weights are kept."""
    for weight in _weights(module):
        if weight.dtype in _FLOATS:
            return weight.dtype
    return fallback if fallback.is_floating_point else torch.float32


def _is_quantised(module: nn.Module) -> bool:
    """Whether it computes in few bits, so that the scale of one row may depend on the others."""
    return any(map(_is_packed, module.modules())) or any(w.dtype in _INTEGERS for w in _weights(module))


def _is_packed(module: nn.Module) -> bool:
    """Whether its weights are no parameters, as those of torch.ao."""
    return "quantized" in type(module).__module__


def _weights(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


def _replaced(
    args: tuple[Any, ...], kwargs: dict[str, Any], rows: Tensor
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call with other rows for the first tensor."""
    if args:
        return (rows, *args[1:]), kwargs
    name = next(n for n, a in kwargs.items() if isinstance(a, Tensor))
    return args, {**kwargs, name: rows}


def _input(call: Call) -> Tensor | None:
    """What a module read: its first argument, or its first named tensor."""
    first = (
        call.args[0] if call.args else next((a for a in call.kwargs.values() if isinstance(a, Tensor)), None)
    )
    return first if isinstance(first, Tensor) else None


def _cast(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def _out(call: Call) -> Any:
    return call.output[0] if isinstance(call.output, tuple) else call.output
