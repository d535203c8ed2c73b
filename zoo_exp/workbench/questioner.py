"""Ask one question about one image under several arms, through the same functions as the evaluation."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from PIL import Image

from zoo_exp.config.experiment import Arm
from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.models.answering import DEFAULT_NEW_TOKENS, EncodedBatch, Ratings, generate, select
from zoo_exp.models.applicability import why_not
from zoo_exp.models.chat import chat_inputs, to_device, user_turn
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.seen import Seen, seen_all
from zoo_exp.models.showing import joined
from zoo_exp.models.unknown_words import unknown_words
from zoo_exp.selectors.layer.base import LayerSelector
from zoo_exp.tasks.images import FORMATS, decode_image

NAME = "ask"
"""Name of the prompt in the seeds of stochastic selectors."""
NO_GRID = "the visual tokens of this image form no grid that is known: there is no figure of the kept tokens"


@dataclass(frozen=True)
class Panel:
    """What one arm did with the image and the question.

    Attributes:
        arm: its label.
        response: the generated text; None where only the tokens were selected, or the arm does not apply.
        kept: visual tokens that entered the language model.
        layer_tokens: mean over the decoder layers, for layer selectors.
        cells: cells of the kept tokens in the view's grid (layer selectors: at the last layer), or None.
        select_ms: duration of scoring and selection; None for layer selectors, whose work is part of the prefill.
        generate_ms: duration of prefill and decoding.
        problem: why the arm does not apply; empty where it does.
    """

    arm: str
    response: str | None = None
    kept: int = 0
    layer_tokens: float | None = None
    cells: tuple[int, ...] | None = None
    select_ms: float | None = None
    generate_ms: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Looked:
    """An image and a question after the vision pass.

    Attributes:
        image: as given.
        question: as given.
        batch: the prompt with its visual tokens.
        view: the image as the model saw it, with its token grid; None where no grid is known.
        vision_ms: duration of the vision pass.
        unknown: words of the question that the tokenizer does not know.
        refused: need of a selector -> why the model cannot fill it.
    """

    image: Image.Image
    question: str
    batch: EncodedBatch
    view: Seen | None
    vision_ms: float
    unknown: tuple[str, ...]
    refused: dict[str, str]

    @property
    def n_visual(self) -> int:
        """Visual tokens of the image."""
        return sum(tokens.count for tokens in self.batch.tokens[0])


def read_image(path: Path) -> Image.Image:
    """The user's own image in RGB, upright, within the limits of data sets' images.

    Raises:
        MissingFileError: no such file, or no image.
        InvalidValueError: an image with too many pixels.
    """
    if path.is_dir():
        raise MissingFileError(f"{path} is a folder: give an image file ({', '.join(FORMATS)})")
    if not path.is_file():
        raise MissingFileError(f"no image {path}: give the path of a file ({', '.join(FORMATS)})")
    return decode_image(path, str(path))


class Questioner:
    """Asks one model.

    Args:
        loaded: the model; it needs a processor.

    Raises:
        InvalidValueError: a model without a processor.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        if loaded.processor is None:
            raise InvalidValueError(
                f"model '{loaded.name}' has no processor: nothing turns a question into its inputs"
            )
        self.loaded = loaded
        self._device = next(loaded.model.parameters()).device

    def look(self, image: Image.Image, question: str, arms: Sequence[Arm]) -> Looked:
        """Run the vision encoder once; needs that the model cannot fill are left out and noted.

        Raises:
            InvalidValueError: an empty question, or a processor that refuses the image.
        """
        if not question.strip():
            raise InvalidValueError('the question is empty: type one, such as "What is in the image?"')
        prompt = chat_inputs(self.loaded.processor, [user_turn([image, question])])
        inputs = to_device(prompt, self._device)
        needs, refused = self._fillable(inputs, arms)
        with torch.inference_mode():
            started = time.perf_counter()
            batch = EncodedBatch(inputs, self.loaded.adapter.encode(inputs, needs))
            self._synchronise()
        milliseconds = (time.perf_counter() - started) * 1e3
        view = seen_all(batch.tokens[0], image, inputs, self.loaded.processor)
        words = unknown_words(self.loaded.processor, [question])
        return Looked(image, question, batch, view, milliseconds, words, refused)

    def warm_up(self, looked: Looked, arm: Arm) -> None:
        """Generate one token without measuring: the first pass of a process allocates memory and picks kernels."""
        with torch.inference_mode():
            self._one(looked, arm, seed=0, new_tokens=1, respond=True)

    def ask(
        self,
        looked: Looked,
        arms: Sequence[Arm],
        *,
        seed: int = 0,
        new_tokens: int = DEFAULT_NEW_TOKENS,
        respond: bool = True,
    ) -> list[Panel]:
        """One panel per arm, in their order.

        Args:
            looked: from `look`, with the needs of these arms.
            arms: selectors with their budgets.
            seed: of stochastic selectors.
            new_tokens: most generated tokens.
            respond: generate responses; otherwise tokens are only selected, and layer selectors are left out.
        """
        with torch.inference_mode():
            return [
                self._one(looked, arm, seed, new_tokens, respond)
                for arm in arms
                if respond or not isinstance(arm.build(), LayerSelector)
            ]

    def _one(self, looked: Looked, arm: Arm, seed: int, new_tokens: int, respond: bool) -> Panel:
        selector = arm.build()
        lacking = sorted(selector.needs & set(looked.refused))
        if lacking:
            return Panel(arm.label, problem=looked.refused[lacking[0]])
        layers = len(self.loaded.adapter.layers)
        problem = why_not(selector, arm.budget, looked.batch.tokens[0], layers)
        if problem is not None:
            return Panel(arm.label, problem=problem)
        names, images, ratings = (
            [f"{NAME}/{arm.seed_index}"],
            looked.batch.tokens[0],
            Ratings(self._synchronise),
        )
        try:
            if not respond:
                found = select(selector, looked.batch.tokens, arm.budget, names, seed=seed, ratings=ratings)
                kept = joined([(t, s.indices) for t, s in zip(images, found.selections[0], strict=True)])
                cells = None if looked.view is None else tuple(looked.view.marked(kept))
                return Panel(arm.label, None, len(kept), None, cells, found.milliseconds)
            options: dict[str, Any] = {"max_new_tokens": new_tokens, "do_sample": False}
            generated = generate(
                self.loaded, looked.batch, selector, arm.budget, names, seed=seed, ratings=ratings, **options
            )
        except ZooExpError as error:
            return Panel(arm.label, problem=str(error))
        (answer,) = generated.read(self.loaded, ())
        if generated.layers is None:
            kept = joined([(t, s.indices) for t, s in zip(images, answer.selections, strict=True)])
        else:
            kept = torch.tensor(generated.layers.left()[0], dtype=torch.int64)
        counts = answer.layer_tokens
        return Panel(
            arm.label,
            answer.text,
            answer.kept_tokens,
            None if counts is None else fmean(counts),
            None if looked.view is None else tuple(looked.view.marked(kept)),
            generated.selected.milliseconds if counts is None else None,
            generated.generate_ms,
        )

    def _fillable(self, inputs: Any, arms: Sequence[Arm]) -> tuple[frozenset[str], dict[str, str]]:
        """The needs of all arms that the model fills, and why it does not fill the others."""
        needs = frozenset().union(*(arm.build().needs for arm in arms))
        if not self.loaded.adapter.self_check:  # adapters of their own leave out what they do not have
            return needs, {}
        refused = {}
        for need in sorted(needs):
            try:
                with torch.inference_mode():
                    self.loaded.adapter.encode(inputs, frozenset([need]))
            except InvalidValueError as error:
                refused[need] = str(error)
        return needs - set(refused), refused

    def _synchronise(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
