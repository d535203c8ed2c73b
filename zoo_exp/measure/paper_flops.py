"""The paper's own FLOP formulas, (8) to (11) of its supplement, for a column beside the counted one.

They differ from a count, and the reasons belong under every table that shows both: see `REASONS`.
"""

from typing import Any

REASONS = (
    "the paper's formula counts a multiply-add as 1, a count as 2 FLOP",
    "it has two matrices per MLP of the language model; these models have three (gated)",
    "vision tower, projector and output head are left out, and so is decoding",
    "a rank-k product is charged d/k per weight row where it costs k: 32 in the place of 128 at d = 4096, k = 128",
    "the projector's perturbed second layer is left out, and one projector pass is taken off the selector's cost",
    "together the selector's cost comes out 13 times too small",
)
DEFAULT_RANK = 128


class PaperCosts:
    """Formulas (8) to (11) for one model.

    Args:
        config: the model's `transformers` configuration.
    """

    convention = "paper"

    def __init__(self, config: Any) -> None:
        text, vision = config.get_text_config(), config.vision_config
        self.layers, self.width = int(text.num_hidden_layers), int(text.hidden_size)
        self.mlp_width, self.vision_width = int(text.intermediate_size), int(vision.hidden_size)

    def prefill(self, length: int) -> int:
        """L (4 n d^2 + 2 n^2 d + 2 n d m)."""
        n, d, m = length, self.width, self.mlp_width
        return self.layers * (4 * n * d * d + 2 * n * n * d + 2 * n * d * m)

    def overhead(self, n_visual: int, n_directions: int = 64, rank: int = DEFAULT_RANK) -> int:
        """Formula (10): 2 m_z n (d / k) (D_v + d) - n D_v d, which the paper sums up as n d^2 (11)."""
        n, d, dv = n_visual, self.width, self.vision_width
        return round(2 * n_directions * n * (d / rank) * (dv + d) - n * dv * d)

    def selector(self, selector: Any, n_visual: int) -> int:
        """What the paper charges a selector: formula (10) for finite differences, nothing for any other rule."""
        sensitive = selector.name == "zoo" and selector.fusion != "diversity"
        if not sensitive or selector.estimator != "zeroth_order":
            return 0
        return self.overhead(n_visual, selector.n_directions, selector.rank)

    def answer(self, n_visual: int, length: int, selector: Any = None) -> int:
        """Formula (8): the prefill of `length` tokens and the selector's overhead on `n_visual`."""
        return self.prefill(length) + (0 if selector is None else self.selector(selector, n_visual))
