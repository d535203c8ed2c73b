"""`VLMAdapter`: where a model family keeps its visual tokens. Every quirk of a family lives in its adapter only."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.capture import Capture
from zoo_exp.models.generic_support import image_token
from zoo_exp.models.question import Question, question_of

POSITIONS = ("contiguous", "original")
IMAGE_INPUTS = ("pixel_values", "image_sizes", "image_grid_thw")


class VLMAdapter:
    """What the engine asks of a model family. Subclasses implement `taps` and `collect`.

    Attributes:
        model: the Hugging Face model with its language-model head.
        vlm: its inner model: vision tower, projector and language model.
        llm: the decoder.
        layers: the decoder's layers.
        image_token_id: the placeholder that the processor writes for every visual token.
        n_visual: visual tokens of an image, or None where it depends on the image.
        processor: the processor, if known; word numbers and the question's end come from its tokenizer.
    """

    family: ClassVar[str] = ""
    positions: str = "contiguous"
    """What becomes of position ids after pruning unless the caller says otherwise (spec: engine 2.3)."""
    axes: ClassVar[int | None] = 3
    """How many of the axes of position ids [A, B, L] the language model reads, the last ones; None for all."""
    encoder_inputs: tuple[str, ...] = IMAGE_INPUTS
    """Names of the vision encoder's inputs."""
    self_check: ClassVar[bool] = False
    """Whether the first prompt of an attached model is checked (`pruned(..., self_check=False)` switches it off)."""

    def __init__(self, model: Any, processor: Any = None) -> None:
        self.model: Any = model
        self.processor = processor
        self.vlm, self.llm = self.parts()
        self.layers: nn.ModuleList = self.llm.layers
        self.image_token_id: int = image_token(self.model.config)
        self.n_visual: int | None = None
        self._question: tuple[Any, Question] | None = None

    @property
    def family_name(self) -> str:
        """The model type, for messages."""
        return str(self.model.config.model_type)

    def parts(self) -> tuple[Any, Any]:
        """The inner model, and its language model."""
        return self.model.model, self.model.model.language_model

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """Modules whose calls `collect` wants to see, by a name of the adapter's own."""
        raise NotImplementedError

    def collect(
        self, capture: Capture, pooled: Sequence[Tensor], call: Mapping[str, Any], needs: frozenset[str]
    ) -> list[VisualTokens]:
        """The visual tokens of every image of a batch, in the order of the placeholders.

        Args:
            capture: calls of the modules that `taps` named.
            pooled: what the model would put in place of the placeholders, one [N, D] per image.
            call: arguments of `get_image_features` by name.
            needs: fields to fill besides `projected`.
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any], needs: frozenset[str]) -> list[list[VisualTokens]]:
        """Run the vision tower once over a batch of prompts.

        Args:
            inputs: the processor's output: `input_ids` [B, L], `attention_mask`, `pixel_values` ...
            needs: fields of `VisualTokens` to fill (the union over all arms).

        Returns:
            For each row its images, in prompt order; an empty list for a row without images.

        Raises:
            InvalidValueError: placeholders and images do not match.
        """
        rows = inputs["input_ids"]
        call = self.encoder_call(inputs)
        if not any(name.startswith("pixel_values") for name in call):
            if bool((rows == self.image_token_id).any()):
                raise InvalidValueError("the prompt has image placeholders, but there are no pixel_values")
            return [[] for _ in rows]
        with Capture(self.taps(needs)) as capture:
            output = self.image_features(**call)
        images = self.collect(capture, self.pooled(output), call, needs)
        grouped = self.group_by_row(rows, images)
        if "text" in needs:
            grouped = self.with_questions(grouped, rows, _mask(inputs))
        return grouped

    def encoder_call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `get_image_features` among a processor's output."""
        return {name: inputs[name] for name in self.encoder_inputs if inputs.get(name) is not None}

    def image_features(self, **call: Any) -> Any:
        """The model's own image features, also while pruning has wrapped that call."""
        return type(self.vlm).get_image_features(self.vlm, **call, return_dict=True)

    def pooled(self, output: Any) -> list[Tensor]:
        """What the model puts in place of the placeholders, from its image-feature call: one tensor per image."""
        return list(output.pooler_output if hasattr(output, "pooler_output") else output[0])

    def group_by_row(self, rows: Tensor, images: Sequence[VisualTokens]) -> list[list[VisualTokens]]:
        """Hand images to the prompts whose placeholders they fill; `rows` is `input_ids` [B, L].

        Raises:
            InvalidValueError: a row's placeholders are not a sum of whole images, or images are left over.
        """
        counts = (rows == self.image_token_id).sum(dim=1).tolist()
        grouped: list[list[VisualTokens]] = []
        rest = iter(images)
        for number, count in enumerate(counts):
            mine: list[VisualTokens] = []
            while count > 0 and (image := next(rest, None)) is not None:
                mine.append(image)
                count -= image.count
            if count != 0:
                raise InvalidValueError(
                    f"row {number} has {counts[number]} image placeholders, which its images with "
                    f"{[i.count for i in images]} visual tokens do not fill: one placeholder per visual token"
                )
            grouped.append(mine)
        left = sum(1 for _ in rest)
        if left:
            raise InvalidValueError(f"{left} of {len(images)} images have no placeholder in the prompts")
        return grouped

    def with_questions(
        self, grouped: list[list[VisualTokens]], ids: Tensor, mask: Tensor
    ) -> list[list[VisualTokens]]:
        """Add the input embeddings of each row's question to its images."""
        if self._question is None or self._question[0] is not self.processor:
            self._question = (self.processor, question_of(self.processor))
        embed = self.model.get_input_embeddings()
        answer = []
        for tokens, row, real in zip(grouped, ids, mask, strict=True):
            if not tokens:
                answer.append(tokens)
                continue
            text, words = self._question[1].select(row, real, self.image_token_id)
            device = tokens[0].device
            found = {
                "text": embed(text).to(device),
                "text_words": None if words is None else words.to(device),
            }
            answer.append([replace(t, **found) for t in tokens])
        return answer

    def check_call(self, given: Mapping[str, Any]) -> None:
        """Refuse a call of the inner model, by argument name, that the installed transformers answers wrongly."""

    def position_ids(self, ids: Tensor, mask: Tensor, images: Sequence[VisualTokens]) -> Tensor:
        """Positions of the unpruned prompt [B, L] (or [3, B, L] where the family has several axes).

        Args:
            ids: `input_ids` [B, L].
            mask: real tokens [B, L].
            images: of all rows, in the order of their placeholders.
        """
        return count_positions(mask)

    def new_positions(self, mask: Tensor) -> Tensor | None:
        """Positions of a pruned prompt under `contiguous`; None lets `generate` count the mask."""
        return None

    def call_arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of a call of `get_image_features`, by name."""
        bound = inspect.signature(type(self.vlm).get_image_features).bind(self.vlm, *args, **kwargs)
        named = dict(bound.arguments)
        named.update(named.pop("kwargs", {}))
        return named


def count_positions(mask: Tensor) -> Tensor:
    """0, 1, 2 ... over the real tokens of each row; padding [B, L] of zeros in the mask gets 0."""
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def _mask(inputs: Mapping[str, Any]) -> Tensor:
    mask: Tensor | None = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask
