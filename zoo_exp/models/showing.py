"""`Pruning.show`: the kept tokens of the last prompt over its image."""

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.chat import chat_inputs, to_device, user_turn
from zoo_exp.models.engine import Engine
from zoo_exp.models.seen import Seen, seen_all
from zoo_exp.models.segments import visual_left
from zoo_exp.overlays import overlaid

NOTHING = "nothing to show: call generate with a prompt that has an image first"


def show(engine: Engine, image: Image.Image, row: int, processor: Any) -> Image.Image:
    """Draw the kept tokens of one row of the last prompt.

    Raises:
        InvalidValueError: no prompt yet, no such row, tokens without a known grid, or a layer selector on a model whose
            processor is not known.
    """
    if not isinstance(image, Image.Image):
        raise InvalidValueError(f"show takes the PIL image of the prompt, got {type(image).__name__}")
    rows = len(engine.kept_tokens)
    if not rows:
        raise InvalidValueError(NOTHING)
    if not 0 <= row < rows:
        raise InvalidValueError(f"row {row}: the last prompt has rows 0 to {rows - 1}")
    processor = engine.adapter.processor if processor is None else processor
    if engine.layers is not None:
        view, kept = _of_layers(engine, image, row, processor)
    else:
        view, kept = _of_input(engine, image, row, processor)
    if view is None:
        raise InvalidValueError(
            f"the visual tokens of model type '{engine.adapter.family_name}' form no grid that is known for "
            "this image: they cannot be drawn; pruning.selections has their indices"
        )
    return overlaid(image=view.image, indices=view.marked(kept), grid=view.grid)


def _of_input(engine: Engine, image: Image.Image, row: int, processor: Any) -> tuple[Seen | None, Tensor]:
    """View and kept tokens of an input selector: what it has captured of the prompt."""
    last = engine.tap.last if engine.tap is not None else None
    if last is None or not last.rows[row]:
        raise InvalidValueError(NOTHING)
    mine = [one for one in last.rows[row] if isinstance(one, VisualTokens)]
    if len(mine) < len(last.rows[row]):
        raise InvalidValueError(
            "show draws images, and the last prompt has a video: pruning.selections has the indices of its kept tokens"
        )
    first = sum(len(images) for images in last.rows[:row])
    view = seen_all(mine, image, last.call, processor, first)
    assert engine.tap is not None
    return view, joined([(t, s.indices) for t, s in zip(mine, engine.tap.selections[row], strict=True)])


def _of_layers(engine: Engine, image: Image.Image, row: int, processor: Any) -> tuple[Seen | None, Tensor]:
    """View and tokens at the input of the last layer: the image is encoded once more, as nothing was captured."""
    assert engine.layers is not None
    if processor is None:
        raise InvalidValueError(
            "show needs the processor to draw a layer selector's tokens: pruning.show(image, processor=processor), or "
            "prune the result of zoo_exp.load_model"
        )
    if not engine.layers.segments:
        raise InvalidValueError(NOTHING)
    left = visual_left(engine.layers.segments[0], engine.layers.segments[-1])[row]
    inputs = to_device(
        chat_inputs(processor, [user_turn([image, "?"])]), next(engine.adapter.model.parameters()).device
    )
    tokens = engine.adapter.encode(inputs, frozenset())[0]
    whole = sum(t.count for t in tokens)
    before = int(engine.layers.segments[0].visual[row].sum())
    if whole != before:
        raise InvalidValueError(
            f"the image has {whole} visual tokens, but row {row} of the last prompt had {before}: give "
            "the image of that row"
        )
    return seen_all(tokens, image, inputs, processor), torch.tensor(left, dtype=torch.int64)


def joined(images: list[tuple[VisualTokens, Tensor]]) -> Tensor:
    """Kept tokens of several images of a prompt, numbered through."""
    start, parts = 0, []
    for tokens, indices in images:
        parts.append(indices.cpu() + start)
        start += tokens.count
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64)


def describe(engine: Engine, selector: Any, budget: Any) -> str:
    """One line: selector, budget, model, and what the last prompt kept."""
    options = {name: value for name, value in vars(selector).items() if _given(selector, name, value)}
    shown = "".join(f", {name}={value!r}" for name, value in options.items())
    wanted = "" if budget is None else f", budget={budget}"
    state = "no prompt yet"
    if engine.kept_tokens:
        rows = engine.kept_tokens
        kept = (
            f"{rows[0]}"
            if len(rows) == 1
            else f"{', '.join(map(str, rows[:8]))}{', ...' if len(rows) > 8 else ''}"
        )
        state = f"last prompt: {kept} visual tokens kept{_of(engine)}"
    return f"<Pruning {selector.name}{wanted}{shown} on {engine.adapter.family_name}; {state}>"


def _of(engine: Engine) -> str:
    """The visual tokens of the last prompt, where they are the same in every row."""
    if engine.layers is not None:
        counts = {row[0] for row in engine.layers.counts if row}
        last = {row[-1] for row in engine.layers.counts if row}
        return f", {last.pop()} at the last layer" if len(counts) == len(last) == 1 else ""
    last_rows = engine.tap.last.rows if engine.tap is not None and engine.tap.last is not None else []
    totals = {sum(t.count for t in row) for row in last_rows}
    return f" of {totals.pop()}" if len(totals) == 1 else ""


def _given(selector: Any, name: str, value: Any) -> bool:
    """Whether a field of a selector differs from its default."""
    fields: Mapping[str, Any] = getattr(type(selector), "__dataclass_fields__", {})
    return name in fields and fields[name].init and fields[name].default != value and not name.startswith("_")
