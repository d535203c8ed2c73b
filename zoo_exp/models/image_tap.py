"""`ImageTap`: captures the result of a model's image-feature call and runs an input selector on it."""

import functools
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.capture import Capture
from zoo_exp.models.prompt import features_of
from zoo_exp.selectors.base import Selector


@dataclass(frozen=True)
class LastPrompt:
    """The images of the last prompt, for `Pruning.show`.

    Attributes:
        rows: visual tokens by row and image.
        call: arguments of the image-feature call, such as `pixel_values`.
    """

    rows: list[list[VisualTokens]]
    call: Mapping[str, Any]


class _Seen(threading.local):
    """Thread-local result of the last image-feature call, and the selections."""

    images: list[VisualTokens] | None = None
    call: Mapping[str, Any] = {}
    chosen: list[list[VisualTokens]] | None = None
    answers: list[list[Selection]] = []  # noqa: RUF012 - replaced, never changed


class ImageTap:
    """Wraps `get_image_features` of the inner model while attached.

    Attributes:
        selections: of the last prompt, by row and image.
        last: its images; None before the first prompt.
    """

    last: LastPrompt | None = None

    def __init__(
        self, adapter: VLMAdapter, selector: Selector, budget: Budget | int | float | str | None, seed: int
    ) -> None:
        self.selections: list[list[Selection]] = []
        self._adapter, self._selector, self._budget, self._seed = adapter, selector, budget, seed
        self._seen = _Seen()

    def attach(self) -> Callable[[], None]:
        """Wrap the call; return a function that removes the wrapper."""
        own = self._adapter.vlm.__dict__
        before = own.get("get_image_features")
        original = self._adapter.vlm.get_image_features

        @functools.wraps(original)  # `generate` reads the signature
        def encode(*args: Any, **kwargs: Any) -> Any:
            needs = self._adapter.captured(self._selector.captures)
            with Capture(self._adapter.taps(needs)) as capture:
                output = original(*args, **kwargs)
            pooled = self._adapter.pooled(output)
            with torch.no_grad():
                call = self._adapter.call_arguments(args, kwargs)
                self._seen.images = self._adapter.collect(capture, pooled, call, needs)
                self._seen.call = call
            self._seen.chosen = None
            return output

        own["get_image_features"] = encode

        def restore() -> None:
            del own["get_image_features"]
            if before is not None:
                own["get_image_features"] = before
            self._seen = _Seen()

        return restore

    @torch.no_grad()
    def choose(self, ids: Tensor, real: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor | None]:
        """Select visual tokens of a prompt.

        Args:
            ids: `input_ids` [B, L]; beam search repeats each row, its copies share the selections.
            real: real tokens [B, L] (bool).
            embeds: embeddings of the prompt with the visual tokens in place [B, L, D].

        Returns:
            Kept tokens [B, L] (bool), and features of all kept visual tokens [sum K, D] if a selector merged some
            (otherwise None).

        Raises:
            InvalidValueError: placeholders do not match the images.
        """
        visual = (ids == self._adapter.image_token_id) & real
        slots = visual.flatten().nonzero().squeeze(1)
        seen = self._seen
        if seen.images is None:
            raise InvalidValueError(
                "the image features of this prompt were computed before pruning was switched on"
            )
        copies, rest = divmod(len(slots), max(1, sum(t.count for t in seen.images)))
        if rest or not copies or len(ids) % copies:
            raise InvalidValueError(
                f"the prompts have {len(slots)} image placeholders, which images with "
                f"{[t.count for t in seen.images]} visual tokens do not fill"
            )
        if seen.chosen is None or copies * len(seen.chosen) != len(ids):
            seen.chosen = self._select(ids[::copies], real[::copies], seen)
        images = [t for row in seen.chosen for _ in range(copies) for t in row]
        answers = [s for row in seen.answers for _ in range(copies) for s in row]
        if not torch.equal(embeds.view(-1, embeds.shape[-1])[slots[0]], images[0].projected[0].to(embeds)):
            raise InvalidValueError(
                "the image features of this prompt are not those of the last image-feature call"
            )
        keep = real & ~visual
        index, start = [], 0
        for tokens, answer in zip(images, answers, strict=True):
            index.append(answer.indices + start)
            start += tokens.count
        keep.view(-1)[slots[torch.cat(index).to(slots.device)]] = True
        if all(answer.merged is None for answer in answers):
            return keep, None
        return keep, torch.cat([features_of(t, s) for t, s in zip(images, answers, strict=True)])

    def _select(self, ids: Tensor, real: Tensor, seen: _Seen) -> list[list[VisualTokens]]:
        """Run the selector with one generator per image, seeded by seed and number of the image in its prompt."""
        rows = self._adapter.group_by_row(ids.masked_fill(~real, -1), seen.images or [])
        rows = self._adapter.with_prompt(rows, ids, real, self._selector.needs)
        flat = [t for row in rows for t in row]
        generators = [generator_for(self._seed, str(i)) for row in rows for i in range(len(row))]
        answers = iter(self._selector.select_many(flat, self._budget, generators))
        self.selections = seen.answers = [[next(answers) for _ in row] for row in rows]
        self.last = LastPrompt(rows, seen.call)
        return rows
