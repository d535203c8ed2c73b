"""`ImageTap`: captures the results of a model's image- and video-feature calls and runs an input selector on them."""

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.capture import Capture
from zoo_exp.models.placeholders import KINDS, grouped, placeholders
from zoo_exp.models.videos import Video, collect_videos, with_newlines
from zoo_exp.selectors.base import Selector

_Unit: TypeAlias = tuple[str, Tensor, VisualTokens | Video]
"""Kind, columns in the prompt, and tokens of an image or a video."""


@dataclass(frozen=True)
class Chosen:
    """An image or a video of a prompt, with what is kept of it.

    Attributes:
        kind: `image` or `video`.
        columns: places of its visual tokens in the prompt [N].
        first: features of its first visual token [D].
        kept: columns of the kept tokens [K].
        merged: features of the kept tokens [K, D], or None if they are unchanged.
    """

    kind: str
    columns: Tensor
    first: Tensor
    kept: Tensor
    merged: Tensor | None


@dataclass(frozen=True)
class LastPrompt:
    """The images of the last prompt, for `Pruning.show`.

    Attributes:
        rows: its images and videos, by row.
        call: arguments of the image-feature call, such as `pixel_values`.
    """

    rows: list[list[VisualTokens | Video]]
    call: Mapping[str, Any]


class _Seen(threading.local):
    """Thread-local results of the last feature calls, and the selections."""

    images: list[VisualTokens] | None = None
    videos: list[Video] | None = None
    call: Mapping[str, Any] = {}
    chosen: list[list[Chosen]] | None = None
    in_video: bool = False

    def of(self, kind: str) -> Sequence[VisualTokens | Video] | None:
        """Images or videos of the last call."""
        return self.images if kind == "image" else self.videos


class ImageTap:
    """Wraps `get_image_features` and `get_video_features` of the inner model while attached.

    Attributes:
        selections: of the last prompt, by row, images and videos in the order of the prompt.
        last: its images and videos; None before the first prompt.
    """

    last: LastPrompt | None = None

    def __init__(
        self, adapter: VLMAdapter, selector: Selector, budget: Budget | int | float | str | None, seed: int
    ) -> None:
        self.selections: list[list[Selection]] = []
        self._adapter, self._selector, self._seed = adapter, selector, seed
        self._budget = None if budget is None else Budget.parse(budget)
        self._seen = _Seen()

    def attach(self) -> Callable[[], None]:
        """Wrap the calls; return a function that removes the wrappers."""
        own, undo = self._adapter.vlm.__dict__, []
        for kind in KINDS if self._adapter.has_video else KINDS[:1]:
            name = f"get_{kind}_features"
            undo.append((name, own.get(name)))
            own[name] = self._wrapped(kind, getattr(self._adapter.vlm, name))

        def restore() -> None:
            for name, before in undo:
                del own[name]
                if before is not None:
                    own[name] = before
            self._seen = _Seen()

        return restore

    def _wrapped(self, kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        """The call, which also records what it returned."""

        @functools.wraps(original)  # `generate` reads the signature
        def encode(*args: Any, **kwargs: Any) -> Any:
            seen = self._seen
            if seen.in_video:  # Qwen3-VL encodes videos as images
                return original(*args, **kwargs)
            needs = self._adapter.captured(self._selector.captures)
            seen.in_video = kind == "video"
            try:
                with Capture(self._adapter.taps(needs)) as capture:
                    output = original(*args, **kwargs)
            finally:
                seen.in_video = False
            with torch.no_grad():
                call = self._adapter.call_arguments(args, kwargs, kind)
                pooled = self._adapter.pooled(output, call)
                if kind == "image":
                    seen.images = self._adapter.collect(capture, pooled, call, needs)
                    seen.call = call
                else:
                    seen.videos = collect_videos(self._adapter, capture, pooled, call, needs)
            seen.chosen = None
            return output

        return encode

    @torch.no_grad()
    def choose(
        self, ids: Tensor, real: Tensor, embeds: Tensor, kinds: Sequence[str] = KINDS[:1]
    ) -> tuple[Tensor, Tensor | None]:
        """Select visual tokens of a prompt.

        Args:
            ids: `input_ids` [B, L]; beam search repeats each row, its copies share the selections.
            real: real tokens [B, L] (bool).
            embeds: embeddings of the prompt with the visual tokens in place [B, L, D].
            kinds: what came with the prompt: `image`, `video` or both.

        Returns:
            Kept tokens [B, L] (bool), and the embeddings with the merged features in place [B, L, D] if a selector
            merged some (otherwise None).

        Raises:
            InvalidValueError: placeholders do not match the images or videos.
        """
        seen = self._seen
        if seen.videos is not None and "video" in kinds:
            slots = placeholders(self._adapter, ids, ["video"], among=kinds) & real
            newline = getattr(self._adapter.vlm, "image_newline", None)
            seen.videos = with_newlines(seen.videos, slots, embeds, newline)
        copies = self._copies(ids, real, kinds)
        if seen.chosen is None or copies * len(seen.chosen) != len(ids):
            seen.chosen = self._select(ids[::copies], real[::copies], kinds)
        rows = [row for row in seen.chosen for _ in range(copies)]
        for kind in kinds:
            self._check_rows(kind, rows, embeds)
        visual = placeholders(self._adapter, ids, kinds)
        keep = real & ~visual
        changed: Tensor | None = None
        for b, row in enumerate(rows):
            for one in row:
                keep[b, one.kept.to(keep.device)] = True
                if one.merged is not None:
                    changed = embeds.clone() if changed is None else changed
                    changed[b, one.kept.to(changed.device)] = one.merged.to(changed)
        return keep, changed

    def _copies(self, ids: Tensor, real: Tensor, kinds: Sequence[str]) -> int:
        """How many times each row is repeated."""
        found = set()
        for kind in kinds:
            units = self._seen.of(kind)
            if units is None:
                raise InvalidValueError(
                    f"the {kind} features of this prompt were computed before pruning was switched on"
                )
            slots = int((placeholders(self._adapter, ids, [kind], among=kinds) & real).sum())
            copies, rest = divmod(slots, max(1, sum(t.count for t in units)))
            if rest or not copies or len(ids) % copies:
                raise InvalidValueError(
                    f"the prompts have {slots} {kind} placeholders, which {kind}s with {[t.count for t in units]} "
                    "visual tokens do not fill"
                )
            found.add(copies)
        if len(found) != 1:
            raise InvalidValueError("the placeholders of images and videos are not repeated alike")
        return found.pop()

    def _check_rows(self, kind: str, rows: Sequence[Sequence[Chosen]], embeds: Tensor) -> None:
        """Check that the prompt holds the features of the last feature call."""
        for b, row in enumerate(rows):
            one = next((unit for unit in row if unit.kind == kind), None)
            if one is None:
                continue
            if torch.equal(embeds[b, one.columns[0]], one.first.to(embeds)):
                return
            raise InvalidValueError(
                f"the {kind} features of this prompt are not those of the last {kind}-feature call"
            )

    def _select(self, ids: Tensor, real: Tensor, kinds: Sequence[str]) -> list[list[Chosen]]:
        """Run the selector with one generator per image or video, seeded by seed and its number in the prompt."""
        rows = self._units(ids.masked_fill(~real, -1), real, kinds)
        units = [(i, unit) for row in rows for i, (_, _, unit) in enumerate(row)]
        answers = iter(self._answers(units))
        self.selections = []
        chosen: list[list[Chosen]] = []
        for row in rows:
            mine = [next(answers) for _ in row]
            self.selections.append([answer for _, answer in mine])
            chosen.append([])
            for (kind, columns, _), (tokens, answer) in zip(row, mine, strict=True):
                kept = columns[answer.indices.to(columns.device)]
                merged = None if answer.merged is None else answer.merged.to(tokens.projected.dtype)
                chosen[-1].append(Chosen(kind, columns, tokens.projected[0], kept, merged))
        self.last = LastPrompt([[unit for _, _, unit in row] for row in rows], self._seen.call)
        return chosen

    def _answers(self, units: Sequence[tuple[int, VisualTokens | Video]]) -> list[tuple[Any, Selection]]:
        """What is kept of each image or video, which is given with its number in the prompt."""
        budget = self._budget
        if budget is not None and budget.per == "frame":
            answers: list[tuple[Any, Selection]] = []
            for i, unit in units:
                if not isinstance(unit, Video):
                    budget.refuse_frames()
                    continue
                answers.append((unit, unit.select(self._selector, budget, self._seed, str(i))))
            return answers
        if budget is not None and budget.per == "tile" and any(isinstance(u, Video) for _, u in units):
            per_frame = str(budget).replace("/tile", "/frame")
            raise InvalidValueError(
                f"budget {budget}: a video has no tiles: give {per_frame}, or a budget per video"
            )
        flat = [u.whole(self._selector.needs) if isinstance(u, Video) else u for _, u in units]
        generators = [generator_for(self._seed, str(i)) for i, _ in units]
        chosen = self._selector.select_many(flat, budget, generators)
        return list(zip(flat, chosen, strict=True))

    def _units(self, ids: Tensor, real: Tensor, kinds: Sequence[str]) -> list[list[_Unit]]:
        """For each row its images and videos with their columns, in the order of the prompt."""
        adapter, needs = self._adapter, self._selector.needs
        rows: list[list[_Unit]] = [[] for _ in ids]
        for kind in kinds:
            slots = placeholders(adapter, ids, [kind], among=kinds)
            for b, given in enumerate(grouped(slots, self._seen.of(kind) or [], kind)):
                images = [one for one in given if isinstance(one, VisualTokens)]
                mine = given if kind == "video" else [*adapter.regrouped(ids[b], images)]
                flat = [f for unit in mine for f in (unit.frames if isinstance(unit, Video) else (unit,))]
                filled = iter(adapter.with_prompt([flat], ids[b : b + 1], real[b : b + 1], needs)[0])
                columns = slots[b].nonzero().squeeze(1).split([unit.count for unit in mine])
                for unit, places in zip(mine, columns, strict=True):
                    if isinstance(unit, Video):
                        unit = Video(tuple(next(filled) for _ in unit.frames), unit.tail)
                    else:
                        unit = next(filled)
                    rows[b].append((kind, places, unit))
        return [sorted(row, key=lambda unit: int(unit[1][0])) if len(kinds) > 1 else row for row in rows]
