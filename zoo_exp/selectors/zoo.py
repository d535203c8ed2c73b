"""ZOO-Prune: keeps tokens with a sensitive projection that are dissimilar to each other."""

import warnings
from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget, BudgetLike
from zoo_exp.core.closed_form import PatchMerger, closed_form, first_order, kernel_area
from zoo_exp.core.diagonal import diagonal, replaces_closed_form
from zoo_exp.core.flops import linear
from zoo_exp.core.fusion import FUSIONS, min_max
from zoo_exp.core.low_rank import as_released, low_rank
from zoo_exp.core.memo import memo
from zoo_exp.core.sensitivity import (
    MLP,
    Projector,
    draw_directions,
    output_area,
    zeroth_order,
    zeroth_order_reference,
)
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.selectors.allocation import NEWLINE, Group, Plan, plan
from zoo_exp.selectors.base import GreedySelector
from zoo_exp.selectors.controls import CONTROLS, controlled
from zoo_exp.selectors.options import one_of, positive

ESTIMATORS = ("zeroth_order", "closed_form", "diagonal", "first_order", "feature_norm")
DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16", "float64")}
PROJECTORS = {"full": None, "low_rank": low_rank, "low_rank_as_released": as_released}
RESPONSES = ("projector", "features")
RELEASED_NEXT_TOKENS = 2880
"""The release computes the ratio from 5 tiles of 576 tokens, regardless of the number of tiles."""


@dataclass(frozen=True)
class Zoo(GreedySelector):
    """Sensitivity of the projector times cosine diversity (ZOO-Prune).

    The poster's Table 4 names its rows none, sum and multiply without formulas. They are interpreted as: `none`:
    sensitivity only; `sum`: min_max(S) + distance; `multiply`: min_max(S) * distance (Algorithm 1); `diversity`:
    DivPrune, whose numbers (Table 3) equal those of the poster's "Sum" rows.

    Attributes:
        estimator: `zeroth_order`, its limit `closed_form`, the limit's `diagonal` (almost free), `first_order`
            (derivatives along the same directions), or `feature_norm` (norm of the projected feature, as a control).
        fusion: `none`, `diversity`, `sum` or `multiply`.
        n_directions: M, random directions per image.
        step_size: h, in units of the projector's input.
        projector: projector for the sensitivity: `full`, `low_rank` (truncated SVD of the loaded weights), or
            `low_rank_as_released` (the random factors that the release uses instead).
        rank: rank of the low-rank projector.
        factor_seed: seed of the random factors of `low_rank_as_released`; use several seeds.
        layer: None for the sensitivity of the projector; the number of an encoder layer, from 1 to the layer before
            the projector, for the response to changes of all features after that layer (supplement D.3).
        response: where it is measured: output of the `projector`, or its input, `features`; unspecified in D.3.
        control: control experiments: `shuffled` permutes the sensitivities randomly, `inverted` uses 1 - S instead
            of S (scaled to 0..1); `none` is the method itself.
        dtype: dtype of the finite differences; None for float32, or float16 with `official_code`.
        variant: `paper`, or `official_code`: half precision, ratios rounded down, and on tiled images the released
            split: an equal share of the total for every tile, and newline indices that are offset by the base tile.
    """

    name: ClassVar[str] = "zoo"
    paper: ClassVar[str] = (
        "ZOO-Prune (CVPR 2026 poster); with variant=official_code "
        "as released (AIM-SKKU/ZOO-Prune 159f7f9, NeXT 2d1194b)"
    )
    NEEDS: ClassVar[frozenset[str]] = frozenset({"features", "projector"})
    later_options: ClassVar[tuple[str, ...]] = ("factor_seed", "response", "control")

    estimator: str = "zeroth_order"
    fusion: str = "multiply"
    n_directions: int = 64
    step_size: float = 0.01
    projector: str = "full"
    rank: int = 128
    factor_seed: int = 0
    layer: int | None = None
    response: str = "projector"
    control: str = "none"
    dtype: str | None = None
    variant: str = "paper"

    def __post_init__(self) -> None:
        """Check the options, alone and together."""
        super().__post_init__()
        one_of(self, "estimator", ESTIMATORS)
        one_of(self, "fusion", FUSIONS)
        one_of(self, "projector", PROJECTORS)
        one_of(self, "response", RESPONSES)
        one_of(self, "dtype", (None, *DTYPES))
        one_of(self, "variant", ("paper", "official_code"))
        positive(self, "n_directions", int)
        positive(self, "step_size")
        positive(self, "rank", int)
        one_of(self, "control", CONTROLS)
        self._check_control()
        if self.layer is not None and (isinstance(self.layer, bool) or not isinstance(self.layer, int)):
            raise InvalidValueError(
                f"layer {self.layer!r} of selector zoo: must be the number of an encoder layer"
            )
        if self.layer is not None and (self.estimator, self.projector) != ("zeroth_order", "full"):
            raise InvalidValueError(
                f"layer {self.layer} of selector zoo requires estimator=zeroth_order and projector=full, "
                f"not with {self.estimator} and {self.projector}"
            )
        if self.layer is None and self.response != "projector":
            raise InvalidValueError(
                f"response {self.response} of selector zoo requires an encoder layer: add layer=NUMBER"
            )
        if self.dtype is not None and self.estimator != "zeroth_order":
            raise InvalidValueError(f"dtype {self.dtype} of selector zoo requires estimator=zeroth_order")

    def _check_control(self) -> None:
        """Refuse controls and seeds that have no effect with the other options."""
        if self.control != "none" and self.fusion == "diversity":
            raise InvalidValueError(
                f"control {self.control} of selector zoo requires a fusion that uses the sensitivity (none, sum, "
                "multiply), not with diversity"
            )
        seed = self.factor_seed
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise InvalidValueError(
                f"factor_seed {seed!r} of selector zoo: must be a whole number of at least 0"
            )
        if seed and self.projector != "low_rank_as_released":
            raise InvalidValueError(
                f"factor_seed {seed} of selector zoo requires projector=low_rank_as_released, not "
                f"{self.projector}"
            )

    @property
    def seed_option(self) -> str | None:
        """The option that numbers the repetitions of an arm, in addition to the seed of the directions."""
        return "factor_seed" if self.projector == "low_rank_as_released" else None

    @property
    def equivariant(self) -> bool:  # type: ignore[override]
        """False with shuffled sensitivities, which depend on positions."""
        return self.control != "shuffled"

    @property
    def stochastic(self) -> bool:
        """Whether the result depends on random draws."""
        drawn = self.estimator in ("zeroth_order", "first_order") or self.control == "shuffled"
        return self.fusion != "diversity" and drawn

    @property
    def needs(self) -> frozenset[str]:
        """Fields that the estimator reads."""
        if self.fusion == "diversity" or self.estimator == "feature_norm":
            return frozenset()
        if self.layer is not None:
            return frozenset(
                {"hidden", "replay"} | ({"projector"} if self.response == "projector" else set())
            )
        return frozenset({"features", "projector"})

    @property
    def wants(self) -> frozenset[str]:
        """The projector's hidden layer, for the diagonal form."""
        used = self.estimator == "diagonal" and self.fusion != "diversity" and self.projector == "full"
        return frozenset({"preactivation"} if used else ())

    @property
    def is_greedy(self) -> bool:
        """False for `fusion=none`, which keeps the highest sensitivities."""
        return self.fusion != "none"

    @property
    def combine(self) -> str:
        """How weight and distance are combined."""
        return "sum" if self.fusion == "sum" else "multiply"

    @property
    def score_key(self) -> Hashable:
        """The sensitivity does not depend on the fusion, so all fusions share it."""
        return replace(self, newline="drop", fusion="diversity" if self.fusion == "diversity" else "multiply")

    def score(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor | None:
        """S of every token of the image [N], after applying the control."""
        if self.fusion == "diversity":
            return None
        return self.rescored(self._sensitivity(tokens, generator), tokens, generator)

    @property
    def rescores(self) -> "Zoo | None":
        """The method itself, whose sensitivities a control permutes or inverts."""
        if self.control == "none" or self.fusion == "diversity" or type(self).score is not Zoo.score:
            return None
        return replace(self, control="none")

    def rescored(
        self, scores: Tensor | None, tokens: VisualTokens, generator: torch.Generator
    ) -> Tensor | None:
        """Apply the control to the sensitivities [N]."""
        return None if scores is None else controlled(scores, tokens, self.control, generator)

    def _sensitivity(self, tokens: VisualTokens, generator: torch.Generator) -> Tensor:
        """S of every token of the image [N], with one set of directions for all of its tiles."""
        if self.estimator == "feature_norm":
            length: Tensor = tokens.projected.float().norm(dim=-1)
            return length
        dtype = DTYPES[self.dtype or ("float16" if self.variant == "official_code" else "float32")]
        if self.layer is not None:
            return self._proxy(tokens, self.layer, generator, dtype)
        x, project = tokens.features, self._projector(tokens)
        if x is None:
            raise InvalidValueError("selector zoo needs 'features'")
        if getattr(project, "constant", False):
            warnings.warn(
                "the projector of this model is linear: every token has the same sensitivity, so selector zoo keeps "
                "the same tokens as divprune (except for the first pick)",
                stacklevel=2,
            )
            return closed_form(x, project)
        if self.estimator == "closed_form":
            return closed_form(x, project)
        if self.estimator == "diagonal":
            return self._diagonal(x, project, tokens.preactivation)
        directions = draw_directions(self.n_directions, x.shape[1], generator, x.device)
        if self.estimator == "first_order":
            return first_order(x, project, directions)
        return zeroth_order(x, project, directions, self.step_size, dtype=dtype)

    def _diagonal(self, x: Tensor, project: Projector, hidden: Tensor | None) -> Tensor:
        """The diagonal form, or the closed form where the adapter found that they rank tokens differently."""
        if not replaces_closed_form(project):
            return closed_form(x, project)
        return diagonal(x, project, hidden if self.projector == "full" else None)

    def weights(self, scores: Tensor | None) -> Tensor | None:
        """Scores scaled to 0..1 over the competing tokens."""
        return None if scores is None else min_max(scores)

    def plan(self, tokens: VisualTokens, budget: BudgetLike) -> Plan:
        """The default allocation, or that of the released code."""
        if self.variant == "paper" or budget is None:
            return super().plan(tokens, budget)
        budget = Budget.parse(budget)
        if budget.keep_ratio is not None:
            budget = replace(budget, rounding="down")
        if tokens.tile is None or budget.per == "tile":
            return plan(tokens, budget, self.newline)
        return self._released_plan(tokens.tile, budget)

    def flops(self, tokens: VisualTokens, budget: BudgetLike) -> int | None:
        """Sensitivity of every token, and cosines of pairs if the fusion uses them."""
        scores = self._sensitivity_flops(tokens)
        if scores is None or not self.is_greedy:
            return scores
        return scores + self.pair_flops(tokens, budget)

    def paper_flops(self, n_visual: int, vision_width: int, width: int) -> int:
        """Formula (10) of the supplement: 2 m_z n (d / k) (D_v + d) - n D_v d, for finite differences only."""
        if self.fusion == "diversity" or self.estimator != "zeroth_order":
            return 0
        passes = 2 * self.n_directions * n_visual * (width / self.rank) * (vision_width + width)
        return round(passes - n_visual * vision_width * width)

    def _sensitivity_flops(self, tokens: VisualTokens) -> int | None:
        """S of every token. N tokens, projector [Dv, H, D], M directions."""
        if self.fusion == "diversity" or self.estimator == "feature_norm":
            return 0
        mlp = tokens.mlp
        # The cost of forward-mode differentiation depends on torch.
        if (
            self.layer is not None
            or self.estimator == "first_order"
            or not isinstance(mlp, MLP | PatchMerger)
        ):
            return None
        n, m = tokens.count, self.n_directions
        inner = mlp.mlp if isinstance(mlp, PatchMerger) else mlp
        (hidden, width), out = inner.w1.shape, inner.w2.shape[0]
        if self.estimator == "diagonal":
            parts = 1 if isinstance(mlp, MLP) else width // len(mlp.norm)
            again = 0 if tokens.preactivation is not None else linear(n, width, hidden)
            return again + linear(n, hidden, parts)
        if self.estimator == "closed_form":
            kernel = linear(n, 1, kernel_area(hidden))
            if isinstance(mlp, PatchMerger):
                patches = width // len(mlp.norm)
                correction = linear(n, width // patches, hidden) + linear(n, hidden, out)
                return linear(n, width, hidden) + patches * (kernel + correction)
            return linear(n, width, hidden) + kernel
        dtype = self.dtype or ("float16" if self.variant == "official_code" else "float32")
        half = dtype in ("float16", "bfloat16")
        if isinstance(mlp, PatchMerger) or (half and self.projector == "full"):
            return 2 * m * n * (linear(1, width, hidden) + linear(1, hidden, out))
        rank = None if self.projector == "full" else self.rank
        if half and rank is not None:
            return 2 * m * n * (linear(1, width + hidden, rank) + linear(1, hidden + out, rank))
        return linear(n + m, width, hidden) + m * linear(n, 1, output_area(rank or out, hidden))

    def _released_plan(self, tile: Tensor, budget: Budget) -> Plan:
        """int(total / tiles) tokens of every tile (all tokens of a smaller one), and newlines as set by the option."""
        numbers = [t for t in tile.unique().tolist() if t != NEWLINE]
        total = budget.count if budget.count is not None else budget.resolve(RELEASED_NEXT_TOKENS)
        groups = []
        for number in numbers:
            index = (tile == number).nonzero().flatten()
            groups.append(Group(index, min(len(index), total // len(numbers))))
        newlines = (tile == NEWLINE).nonzero().flatten()
        if self.newline == "drop" or not len(newlines):
            return Plan(tuple(groups))
        # The release (llava_arch_llava_next_7b.py) collects the rows of newlines before it prepends the base tile.
        shift = int((tile == 0).sum()) if self.newline == "as_released" else 0
        return Plan(tuple(groups), newlines - shift)

    def _projector(self, tokens: VisualTokens) -> Projector:
        full = tokens.mlp if tokens.mlp is not None else tokens.project
        reduce = PROJECTORS[self.projector]
        if reduce is None:
            return full  # type: ignore[return-value]
        if not isinstance(full, MLP):
            raise InvalidValueError(
                f"projector {self.projector} of selector zoo: the projector of this model is not a two-layer MLP"
            )
        if self.projector == "low_rank_as_released":
            seed = self.factor_seed
            return memo(full, (self.projector, self.rank, seed), lambda: as_released(full, self.rank, seed))
        return memo(full, (self.projector, self.rank), lambda: reduce(full, self.rank))

    def _proxy(
        self, tokens: VisualTokens, layer: int, generator: torch.Generator, dtype: torch.dtype
    ) -> Tensor:
        known, replay = sorted(tokens.hidden), tokens.replay
        if layer not in tokens.hidden or replay is None:
            raise InvalidValueError(
                f"layer {layer} of selector zoo: the projector reads encoder layer {known[-1]}, give 1 to {known[-1]}; "
                "the output of later layers does not reach the language model"
            )
        if self.response == "features" and layer == known[-1]:
            raise InvalidValueError(
                f"layer {layer} of selector zoo with response=features: that layer is the projector's input, so that "
                "every response is 1; give a layer before it, or response=projector"
            )
        x = tokens.hidden[layer]
        directions = draw_directions(self.n_directions, x.shape[1], generator, x.device)
        project: Any = (lambda rows: rows) if self.response == "features" else tokens.mlp or tokens.project
        return zeroth_order_reference(
            x, lambda h: project(replay(layer, h)), directions, self.step_size, dtype=dtype
        )
