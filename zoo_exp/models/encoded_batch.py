"""A batch of prompts after its vision pass, and the rows of it that an arm has not answered yet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError


@dataclass(frozen=True)
class EncodedBatch:
    """A batch after its vision pass.

    Attributes:
        inputs: the processor's tensors on the model's device.
        tokens: visual tokens by row and image.
    """

    inputs: Mapping[str, Any]
    tokens: Sequence[Sequence[VisualTokens]]

    def rows(self, places: Sequence[int]) -> "EncodedBatch":
        """A subset of rows, without pixels, since the images are encoded already.

        Raises:
            InvalidValueError: an input that belongs neither to rows nor to images.
        """
        if len(places) == len(self.tokens):
            return self
        images, first = [], 0
        for place, row in enumerate(self.tokens):
            if place in places:
                images.append((place, range(first, first + len(row))))
            first += len(row)
        by_row = dict(images)
        numbers = [number for place in places for number in by_row[place]]
        inputs = {
            name: self._cut(name, value, list(places), numbers, first)
            for name, value in self.inputs.items()
            if value is not None and "pixel" not in name
        }
        return EncodedBatch(inputs, [self.tokens[place] for place in places])

    def _cut(self, name: str, value: Any, places: list[int], numbers: list[int], images: int) -> Any:
        """An input of some rows: with an entry per token, per image, or per row of the batch."""
        shape = self.inputs["input_ids"].shape
        rows = isinstance(value, list) or (isinstance(value, Tensor) and value.ndim > 0)
        length = len(value) if rows else None
        per_token = isinstance(value, Tensor) and value.shape[:2] == shape
        if per_token or (length == shape[0] and length != images):
            chosen = places
        elif length == images:
            chosen = numbers
        else:
            what = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidValueError(
                f"the processor's output {name} ({what}) cannot be cut to some of {shape[0]} prompts with {images} "
                "images, as resuming in the middle of a batch needs: resume with model.batch_size=1"
            )
        return value[chosen] if isinstance(value, Tensor) else [value[number] for number in chosen]
