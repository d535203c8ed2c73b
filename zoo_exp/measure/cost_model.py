"""FLOPs of a VLM's stages from its configuration (1 multiply-add = 2 FLOPs), and the paper's formulas.

All matrix products are counted: three matrices of the gated MLP, the output head, the vision encoder and the projector;
causal attention is counted in full. A test compares the result with torch's counter. Softmax, norms and activations
(below 1 %) are excluded from both.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from zoo_exp.core.budget import BudgetLike
from zoo_exp.core.flops import Encoding, linear
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.models.families import adapter_class
from zoo_exp.selectors.base import Selector
from zoo_exp.selectors.options import describes

_SELECTION = ("select", "select_many", "plan", "score", "weights", "pick")
"""Methods that `flops` of an input selector describes."""
FLOPS_COLUMNS = {
    "tower_tflop": "encoder",  # the name of this column dates from the first version of bench.csv
    **{f"{name}_tflop": name for name in ("projector", "select", "prefill", "decode", "total")},
}
"""Column of bench.csv and flops.csv -> attribute of `StageFlops`."""


@dataclass(frozen=True)
class StageFlops:
    """FLOPs of one response by stage. `select` is None if the selector has no formula."""

    encoder: int
    projector: int
    select: int | None
    prefill: int
    decode: int

    @property
    def total(self) -> int:
        """FLOPs of all stages; an unknown selector counts as 0."""
        return self.encoder + self.projector + (self.select or 0) + self.prefill + self.decode


class CostModel:
    """FLOPs of a vision-language model with a Llama-like decoder (LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL).

    Args:
        config: the model's `transformers` configuration.
    """

    def __init__(self, config: Any) -> None:
        self.text = config.get_text_config()
        self.vision = adapter_class(config.model_type).vision_costs(config)

    @cached_property
    def _sizes(self) -> tuple[int, int, int, int, int]:
        """Heads, key-value heads, width of a head, hidden width, MLP width; reading a configuration is slow."""
        c = self.text
        heads = c.num_attention_heads
        head = getattr(c, "head_dim", None) or c.hidden_size // heads
        return heads, c.num_key_value_heads, head, c.hidden_size, c.intermediate_size

    @cached_property
    def _depth(self) -> int:
        return int(self.text.num_hidden_layers)

    @cached_property
    def _head(self) -> int:
        return linear(1, self.text.hidden_size, self.text.vocab_size)

    def layer(self, queries: int, keys: int) -> int:
        """One decoder layer for `queries` rows that attend to `keys` rows each."""
        heads, kv_heads, head, width, mlp_width = self._sizes
        attention = linear(queries, width, (heads + 2 * kv_heads) * head)
        attention += linear(queries, heads * head, width) + 2 * linear(queries, heads * head, keys)
        return attention + 3 * linear(queries, width, mlp_width)

    def decoder(self, queries: int, keys: int) -> int:
        """All decoder layers for `queries` rows that attend to `keys` rows each."""
        return int(self._depth * self.layer(queries, keys))

    def head(self) -> int:
        """Logits of one position."""
        return self._head

    def prefill(self, length: int | Sequence[int]) -> int:
        """The prompt, and the output head for its last token.

        Args:
            length: tokens that enter the decoder, or their number at the input of every layer (layer selectors).
        """
        if isinstance(length, int):
            return self.decoder(length, length) + self.head()
        return sum(self.layer(n, n) for n in length) + self.head()

    def decode(self, length: int | Sequence[int], new_tokens: int) -> int:
        """The steps after the prefill, which itself gives the first new token."""
        steps = range(1, new_tokens)
        if isinstance(length, int):
            return sum(self.decoder(1, length + step) + self.head() for step in steps)
        return sum(sum(self.layer(1, n + step) for n in length) + self.head() for step in steps)

    def encoder(self, n_visual: int) -> int:
        """Vision encoder for images with a total of `n_visual` visual tokens."""
        return self.vision.guess(n_visual).encoder

    def projector(self, n_visual: int) -> int:
        """Projector for images with a total of `n_visual` visual tokens."""
        return self.vision.guess(n_visual).projector

    def encode(self, images: Sequence[VisualTokens]) -> Encoding:
        """Vision encoder and projector for these images, with their actual tiles and shapes."""
        return self.vision.encode(images)

    def stages(
        self,
        images: Sequence[VisualTokens],
        length: int | Sequence[int],
        new_tokens: int,
        selector: Any = None,
        budget: Any = None,
        needs: Collection[str] | None = None,
    ) -> StageFlops:
        """FLOPs of one response by stage.

        Args:
            images: visual tokens of the prompt's images before pruning.
            length: tokens that enter the decoder, or their number at the input of every layer.
            new_tokens: generated tokens.
            selector: the selector, or None.
            budget: its budget.
            needs: fields that the vision encoder has to provide; None for those of the selector.
        """
        encoded = self.encode(images)
        if needs is None:
            needs = getattr(selector, "needs", frozenset())
        parts = [0 if selector is None else selector_flops(selector, image, budget) for image in images]
        known = [part for part in parts if part is not None]
        return StageFlops(
            encoded.encoder + self.vision.captured(images, needs),
            encoded.projector,
            sum(known) if len(known) == len(parts) else None,
            self.prefill(length),
            self.decode(length, new_tokens),
        )


def costs_of(config: Any) -> CostModel | None:
    """The FLOPs of a model; None for families without a formula, whose encoders and decoders are of every make."""
    adapter = adapter_class(config.model_type)
    return CostModel(config) if adapter.family else None


def selector_flops(selector: Any, tokens: VisualTokens, budget: BudgetLike) -> int | None:
    """FLOPs of selecting from one image by the selector's formula, or None if it has none.

    Args:
        selector: an input selector.
        tokens: the image's visual tokens.
        budget: number of tokens to keep, as in `select`.
    """
    if not hasattr(selector, "flops") or not describes(selector, "flops", _SELECTION):
        return None
    flops: int | None = selector.flops(tokens, budget)
    return flops


REASONS = (
    "the paper's formula counts a multiply-add as 1, a count as 2 FLOP",
    "it has two matrices per MLP of the language model; these models have three (gated)",
    "vision encoder, projector and output head are left out, and so is decoding",
    "a rank-k product is charged d/k per weight row where it costs k: 32 in the place of 128 at d = 4096, k = 128",
    "the projector's perturbed second layer is left out, and one projector pass is taken off the selector's cost",
    "together the selector's cost comes out 13 times too small",
)
"""Reasons why the paper's formulas and a count differ; shown below every table with both."""


class PaperCosts:
    """The paper's formulas (8) to (11) of its supplement for one model; `REASONS` lists the differences to a count.

    Args:
        config: the model's `transformers` configuration.
    """

    def __init__(self, config: Any) -> None:
        text, vision = config.get_text_config(), config.vision_config
        self.layers, self.width = int(text.num_hidden_layers), int(text.hidden_size)
        self.mlp_width, self.vision_width = int(text.intermediate_size), int(vision.hidden_size)

    def prefill(self, length: int) -> int:
        """L (4 n d^2 + 2 n^2 d + 2 n d m)."""
        n, d, m = length, self.width, self.mlp_width
        return self.layers * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)

    def answer(self, n_visual: int, length: int, selector: Selector | None = None) -> int:
        """Formula (8): prefill of `length` tokens, plus the overhead of the selector on `n_visual` tokens."""
        own = 0 if selector is None else selector.paper_flops(n_visual, self.vision_width, self.width)
        return self.prefill(length) + own
