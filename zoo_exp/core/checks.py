"""Validate that features are finite; on a GPU the check can be deferred to avoid a synchronisation."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError

Pending = list[tuple[Tensor, Callable[[], str]]]
"""What must hold (one bool on the device), and what is wrong if it does not."""
_PENDING: ContextVar[Pending | None] = ContextVar("pending checks", default=None)


def check_features(x: Tensor, width: int | None = None, name: str = "features") -> None:
    """Check that features are a finite matrix [N, Dv].

    On a GPU the check of the values requires a synchronisation; inside `deferred_checks()` it happens at the end.

    Args:
        x: the features.
        width: Dv, or None for any.
        name: of the features, for the message.

    Raises:
        InvalidValueError: wrong shape or width, or the features contain NaN or infinity.
    """
    if x.ndim != 2 or (width is not None and x.shape[1] != width):
        want = f"[N, {width}]" if width is not None else "[N, width]"
        raise InvalidValueError(f"{name} must be {want}, got shape {tuple(x.shape)}")
    if not x.numel():
        return
    # min and max are finite only if all values are: one pass, without a temporary of the size of the features.
    finite = torch.stack(torch.aminmax(x.detach())).isfinite().all()
    _check(finite, lambda: _not_finite(x, name))


def check_scores(who: str, scores: object, count: int) -> None:
    """Check that a selector returned one finite score for each visual token [N].

    Args:
        who: the selector, for the message.
        scores: what its `score` returned; None for selectors without scores.
        count: N, visual tokens of the image.

    Raises:
        InvalidValueError: no tensor of numbers, another shape, NaN or infinity.
    """
    if scores is None:
        return
    if not isinstance(scores, Tensor) or scores.is_complex():
        got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise InvalidValueError(f"the scores of {who} must be a tensor of numbers, got {got}")
    if scores.shape != (count,):
        raise InvalidValueError(
            f"{who} must score every visual token once: expected shape ({count},), got {tuple(scores.shape)}"
        )
    check_features(scores[:, None], name=f"scores of {who}")


def check_values(holds: Tensor, wrong: str) -> None:
    """Check values that are computed on a device: deferred like `check_features`.

    Args:
        holds: what must be true, one bool on the device [].
        wrong: the message if it is not.

    Raises:
        InvalidValueError: it is not.
    """
    _check(holds, lambda: wrong)


def check_picks(who: str, indices: object, size: int, count: int, *, exact: bool, look: bool = True) -> None:
    """Refuse a selector's answer that is not `count` different indices into `size` tokens.

    Args:
        who: the selector, for the message.
        indices: its answer, [K] (int64).
        size: tokens that it chose from.
        count: tokens that were asked for.
        exact: whether fewer are wrong.
        look: look at the values too; on a GPU that waits for it.

    Raises:
        InvalidValueError: another type or shape, another number, an index twice or out of range.
    """
    if not isinstance(indices, Tensor) or indices.ndim != 1 or indices.dtype != torch.int64:
        got = (
            f"{indices.dtype} {tuple(indices.shape)}"
            if isinstance(indices, Tensor)
            else type(indices).__name__
        )
        raise InvalidValueError(f"{who} must answer with indices, an int64 tensor [K], got {got}")
    if len(indices) > count or (exact and len(indices) != count):
        raise InvalidValueError(f"{who} must keep {count} of {size} tokens, got {len(indices)}")
    if not look or not len(indices):
        return
    low, high = (int(value) for value in torch.aminmax(indices))
    if low < 0 or high >= size:
        raise InvalidValueError(f"{who} chose token {low if low < 0 else high}: there are 0 to {size - 1}")
    if len(indices.unique()) < len(indices):
        raise InvalidValueError(f"{who} chose a token twice")


@contextmanager
def deferred_checks() -> Iterator[None]:
    """Defer checks of features on a GPU to the end of the block.

    The host can then queue selection and prefill while the vision encoder is still running. Results computed inside
    must not be used before the block has ended. Blocks may be nested: the outermost one raises. If the block itself
    fails, non-finite features are reported instead, because they are the likely cause.

    Raises:
        InvalidValueError: features that were checked inside the block contain NaN or infinity.
    """
    if _PENDING.get() is not None:
        yield
        return
    pending: Pending = []
    token = _PENDING.set(pending)
    try:
        yield
    except Exception as error:
        try:
            _settle(pending)
        except InvalidValueError as cause:
            raise cause from error
        raise
    else:
        _settle(pending)
    finally:
        _PENDING.reset(token)


def _queued(x: Tensor) -> bool:
    """Whether x is computed asynchronously."""
    return x.device.type != "cpu"


def _settle(pending: Pending) -> None:
    """Evaluate the deferred checks, with one synchronisation per device."""
    for device in {holds.device for holds, _ in pending}:
        here = [check for check in pending if check[0].device == device]
        if not torch.stack([holds for holds, _ in here]).all():
            for check in here:
                _demand(*check)


def _check(holds: Tensor, wrong: Callable[[], str]) -> None:
    pending = _PENDING.get()
    if pending is not None and _queued(holds):
        pending.append((holds, wrong))
    else:
        _demand(holds, wrong)


def _demand(holds: Tensor, wrong: Callable[[], str]) -> None:
    if not holds.item():
        raise InvalidValueError(wrong())


def _not_finite(x: Tensor, name: str) -> str:
    rows = (~torch.isfinite(x).all(dim=-1)).nonzero().flatten().tolist()
    return f"{name} contain NaN or infinity in {len(rows)} of {len(x)} rows, first row {rows[0]}"
