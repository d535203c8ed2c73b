"""`VLMAdapter`: base class with everything that is specific to a model family."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zoo_exp.core.flops import VisionCosts
from zoo_exp.core.sending import sent
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.calibration import calibrate_diagonal
from zoo_exp.models.capture import Capture
from zoo_exp.models.clip_heads import ClipHeads
from zoo_exp.models.generic_support import image_token, video_token
from zoo_exp.models.placeholders import grouped
from zoo_exp.models.question import Question, question_of

POSITIONS = ("contiguous", "original")
IMAGE_INPUTS = ("pixel_values", "image_sizes", "image_grid_thw")


class VLMAdapter:
    """Interface between the engine and a model family. Subclasses implement `taps` and `collect`.

    Attributes:
        model: the Hugging Face model with its language-model head.
        vlm: its inner model: vision encoder, projector and language model.
        llm: the decoder.
        layers: the decoder's layers.
        image_token_id: the placeholder that the processor writes for every visual token.
        video_token_id: the same of a video; None if the model takes no videos.
        n_visual: visual tokens of an image, or None if it depends on the image.
        clip: the full CLIP of the vision encoder, if it was loaded (`load_model(clip=PATH)`).
        processor: the processor, if known; its tokenizer gives word numbers and the end of the question.
    """

    family: ClassVar[str] = ""
    """`model_type` in config.json."""
    model_class: ClassVar[str] = ""
    """Name of the class in `transformers` that has the language-model head."""
    config_class: ClassVar[str] = ""
    """Name of its configuration class in `transformers`."""
    ARCHITECTURES: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Hub id -> arguments of the configuration class, for random weights without a download."""
    positions: str = "contiguous"
    """Position ids after pruning unless the caller chooses: one of `POSITIONS`."""
    axes: ClassVar[int | None] = 3
    """Number of (last) axes of position ids [A, B, L] that the language model reads; None for all."""
    encoder_inputs: tuple[str, ...] = IMAGE_INPUTS
    """Names of the vision encoder's inputs."""
    pixel_inputs: tuple[str, ...] = ("pixel_values",)
    """Names under which the inner model's `forward` takes the pixels of images."""
    self_check: ClassVar[bool] = False
    """Whether the first prompt of an attached model is checked; disable with `pruned(..., self_check=False)`."""

    @classmethod
    def processor_class(cls) -> Any:
        """The class whose `from_pretrained` loads the family's processor."""
        from transformers import AutoProcessor

        return AutoProcessor

    @classmethod
    def architecture(cls, name: str) -> Any:
        """A fresh configuration of one of `ARCHITECTURES`, by hub id."""
        import transformers

        return getattr(transformers, cls.config_class)(**copy.deepcopy(dict(cls.ARCHITECTURES[name])))

    @classmethod
    def vision_costs(cls, config: Any) -> VisionCosts:
        """FLOPs of the vision encoder and projector of a model with this configuration.

        Raises:
            InvalidValueError: the family has no formula.
        """
        raise InvalidValueError(
            f"model family {cls.family} has no FLOPs formula: implement {cls.__name__}.vision_costs"
        )

    def made_up_images(
        self, batch_size: int, image_size: tuple[int, int], generator: torch.Generator
    ) -> tuple[dict[str, Tensor], int]:
        """Random images as the processor would return them, one per prompt.

        Args:
            batch_size: B.
            image_size: height and width in pixels; families with one input size ignore it.
            generator: of the pixels.

        Returns:
            Inputs of the vision encoder (`pixel_values` [B, 3, H, W] or patches, sizes), and visual tokens per image.

        Raises:
            InvalidValueError: the family cannot make them up.
        """
        raise InvalidValueError(f"the model family {self.family} does not support synthetic prompts")

    def __init__(self, model: Any, processor: Any = None) -> None:
        self.model: Any = model
        self.processor = processor
        self.vlm, self.llm = self.parts()
        self.layers: nn.ModuleList = self.llm.layers
        self.image_token_id: int = image_token(self.model.config)
        self.video_token_id: int | None = video_token(self.model.config, self.vlm)
        self.n_visual: int | None = None
        self.clip: ClipHeads | None = None
        self._question: tuple[Any, Question] | None = None
        self._calibrated: object = None

    @property
    def has_video(self) -> bool:
        """Whether the model encodes videos by a call of its own (`pixel_values_videos`)."""
        return self.video_token_id is not None

    @property
    def family_name(self) -> str:
        """The model type, for messages."""
        return str(self.model.config.model_type)

    def parts(self) -> tuple[Any, Any]:
        """The modules that encode images and read their tokens.

        Returns:
            The inner model, and its language model, which has `layers`.
        """
        return self.model.model, self.model.model.language_model

    def taps(self, needs: frozenset[str]) -> dict[str, nn.Module]:
        """Modules whose calls `collect` reads, by adapter-specific names."""
        raise NotImplementedError

    def collect(
        self, capture: Capture, pooled: Sequence[Tensor], call: Mapping[str, Any], needs: frozenset[str]
    ) -> list[VisualTokens]:
        """The visual tokens of every image of a batch, in the order of the placeholders.

        Args:
            capture: calls of the modules that `taps` returned.
            pooled: the features that replace the placeholders, one [N, D] per image.
            call: arguments of `get_image_features` by name.
            needs: fields to fill besides `projected`.
        """
        raise NotImplementedError

    @torch.no_grad()
    def encode(self, inputs: Mapping[str, Any], needs: frozenset[str]) -> list[list[VisualTokens]]:
        """Run the vision encoder once over a batch of prompts.

        Args:
            inputs: the processor's output: `input_ids` [B, L], `attention_mask`, `pixel_values` ...
            needs: fields of `VisualTokens` to fill (the union over all arms).

        Returns:
            For each row its images, in prompt order; an empty list for a row without images.

        Raises:
            InvalidValueError: placeholders and images do not match.
        """
        rows = inputs["input_ids"]
        if inputs.get("pixel_values_videos") is not None:
            raise InvalidValueError("videos are pruned by zoo_exp.pruned only: give the frames as images")
        call = self.encoder_call(inputs)
        if not any(name.startswith("pixel_values") for name in call):
            if bool((rows == self.image_token_id).any()):
                raise InvalidValueError("the prompt has image placeholders, but there are no pixel_values")
            return [[] for _ in rows]
        needs = self.captured(needs)
        with Capture(self.taps(needs)) as capture:
            output = self.image_features(**call)
        images = self.complete(self.collect(capture, self.pooled(output, call), call, needs), output)
        grouped = self.group_by_row(rows, images)
        return self.with_prompt(grouped, rows, _mask(inputs), needs)

    def encoder_call(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments of `get_image_features` from a processor's output."""
        return {name: inputs[name] for name in self.encoder_inputs if inputs.get(name) is not None}

    def image_features(self, **call: Any) -> Any:
        """The model's unmodified image features, also while the call is wrapped by pruning."""
        return type(self.vlm).get_image_features(self.vlm, **call, return_dict=True)

    def pooled(self, output: Any, call: Mapping[str, Any]) -> list[Tensor]:
        """Features that replace the placeholders.

        Args:
            output: of a feature call.
            call: its arguments by name.

        Returns:
            One tensor [N, D] per image.
        """
        return list(output.pooler_output if hasattr(output, "pooler_output") else output[0])

    def group_by_row(self, rows: Tensor, images: Sequence[VisualTokens]) -> list[list[VisualTokens]]:
        """Assign images to prompts by the number of placeholders.

        Args:
            rows: `input_ids` [B, L].
            images: of all rows, in order.

        Raises:
            InvalidValueError: the placeholders of a row do not match whole images, or images are left over.
        """
        by_row = grouped(rows == self.image_token_id, images)
        return [self.regrouped(ids, mine) for ids, mine in zip(rows, by_row, strict=True)]

    def regrouped(self, ids: Tensor, images: list[VisualTokens]) -> list[VisualTokens]:
        """The images of one prompt, where a model gives something else than one tensor per image.

        Args:
            ids: the prompt [L].
            images: what the model gave for its placeholders, in order.
        """
        return images

    def with_questions(
        self, grouped: list[list[VisualTokens]], ids: Tensor, mask: Tensor
    ) -> list[list[VisualTokens]]:
        """Add the input embeddings of each row's question to its images.

        Args:
            grouped: images by row.
            ids: `input_ids` [B, L].
            mask: real tokens [B, L].
        """
        question = self._known_question()
        embed = self.model.get_input_embeddings()
        answer = []
        for tokens, row, real in zip(grouped, ids.cpu(), mask.cpu(), strict=True):
            text, words = question.select(row, real, self.image_token_id)
            text = sent(text, ids.device)
            found = question.fields(text, words, embed, tokens[0].device) if tokens else {}
            answer.append([replace(t, **found, family=self.family) for t in tokens])
        return answer

    def captured(self, needs: frozenset[str]) -> frozenset[str]:
        """Fields to capture for some needs: CLIP's embeddings of patches are made of the features."""
        if "preactivation" in needs:
            self.calibrate()
        return needs | {"features"} if "clip" in needs and self.clip is not None else needs

    def calibrate(self) -> None:
        """Compare the diagonal sensitivity with the closed form once per state of the projector's weights."""
        fields = getattr(self, "projector_fields", None)  # families with one projector for all images
        mlp = None if fields is None else fields(frozenset({"projector"})).get("mlp")
        if mlp is not None and self._calibrated is not mlp:
            self._calibrated = mlp
            calibrate_diagonal(self, mlp)

    def with_prompt(
        self, grouped: list[list[VisualTokens]], ids: Tensor, mask: Tensor, needs: frozenset[str]
    ) -> list[list[VisualTokens]]:
        """Add what needs the prompts besides the images: embeddings of the question, the LLM's and CLIP's own.

        Args:
            grouped: images by row.
            ids: `input_ids` [B, L].
            mask: real tokens [B, L].
            needs: fields to fill; other ones stay as they are.
        """
        if self.video_token_id is not None:
            ids = ids.masked_fill(ids == self.video_token_id, self.image_token_id)
        if "text" in needs:
            grouped = self.with_questions(grouped, ids, mask)
        clip = self.clip
        if "clip" not in needs or clip is None:
            return grouped
        question = self._known_question()
        return [
            clip.add(tokens, question.message(question.select(row, real, self.image_token_id)[0]))
            for tokens, row, real in zip(grouped, ids.cpu(), mask.cpu(), strict=True)
        ]

    def _known_question(self) -> Question:
        """Question settings of the processor; read once."""
        if self._question is None or self._question[0] is not self.processor:
            self._question = (self.processor, question_of(self.processor))
        return self._question[1]

    def complete(self, images: list[VisualTokens], output: Any) -> list[VisualTokens]:
        """Add fields to `images`, in order, that are only in the `output` of the image-feature call."""
        return images

    def prune(
        self,
        inputs: Mapping[str, Any],
        tokens: Sequence[Sequence[VisualTokens]],
        selections: Sequence[Sequence[Any]],
        positions: str | None,
    ) -> Any:
        """Create a `PrunedPrompt`, if the decoder reads more than embeddings, mask and positions; else None.

        Args:
            inputs: as in `prune_prompt`, like the arguments that follow.
            tokens: visual tokens by row and image.
            selections: selections in the same layout.
            positions: position policy, or None.
        """
        return None

    def check_call(self, given: Mapping[str, Any]) -> None:
        """Refuse calls of the inner model (arguments by name) that the installed transformers computes incorrectly."""

    def position_ids(self, ids: Tensor, mask: Tensor, images: Sequence[VisualTokens]) -> Tensor:
        """Positions of the unpruned prompt [B, L] (or [3, B, L] where the family has several axes).

        Args:
            ids: `input_ids` [B, L].
            mask: real tokens [B, L].
            images: of all rows, in the order of their placeholders.
        """
        return count_positions(mask)

    def new_positions(self, mask: Tensor) -> Tensor | None:
        """Positions of a pruned prompt of real tokens `mask` [B, L], or None: `generate` derives them from the mask."""
        return None

    def call_arguments(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], kind: str = "image"
    ) -> dict[str, Any]:
        """Arguments of a call of `get_image_features` (or of `get_video_features`), by name.

        Args:
            args: positional arguments.
            kwargs: named arguments.
            kind: `image` or `video`.
        """
        called = getattr(type(self.vlm), f"get_{kind}_features")
        bound = inspect.signature(called).bind(self.vlm, *args, **kwargs)
        named = dict(bound.arguments)
        named.update(named.pop("kwargs", {}))
        return named


def count_positions(mask: Tensor) -> Tensor:
    """Positions 0, 1, 2 ... of the real tokens in each row [B, L]; padding gets 0."""
    return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)


def _mask(inputs: Mapping[str, Any]) -> Tensor:
    mask: Tensor | None = inputs.get("attention_mask")
    return torch.ones_like(inputs["input_ids"]) if mask is None else mask
