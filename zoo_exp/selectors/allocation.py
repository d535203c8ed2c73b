"""Allocation of a budget to the tiles of an image, and treatment of newline tokens."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError

NEWLINES = ("drop", "keep", "as_released")
NEWLINE = -1
"""Tile number of a newline token."""


@dataclass(frozen=True)
class Group:
    """A set of competing tokens.

    Attributes:
        index: numbers of the tokens in the image [n]; None for all.
        k: how many of them are kept.
    """

    index: Tensor | None
    k: int

    def size(self, tokens: VisualTokens) -> int:
        """Number of tokens in the group."""
        return tokens.count if self.index is None else len(self.index)


@dataclass(frozen=True)
class Plan:
    """Allocation of the budget for one image.

    Attributes:
        groups: sets of competing tokens with their share of the budget.
        extra: tokens that are kept in addition to the budget, or None.
    """

    groups: Sequence[Group]
    extra: Tensor | None = None

    @property
    def total(self) -> int:
        """Total number of tokens kept by the groups."""
        return sum(group.k for group in self.groups)

    def assemble(
        self, tokens: VisualTokens, picked: Sequence[Tensor | Selection], scores: Tensor | None
    ) -> Selection:
        """Combine the picks of the groups with k > 0 to one selection with ascending indices.

        Args:
            tokens: the image.
            picked: indices into the group [k], or a `Selection`, of each group in order.
            scores: scores of all tokens [N], or None.
        """
        parts, merged = [], []
        for group, answer in zip((g for g in self.groups if g.k), picked, strict=True):
            local = answer.indices if isinstance(answer, Selection) else answer
            parts.append(local if group.index is None else group.index[local])
            if isinstance(answer, Selection) and answer.scores is not None and group.index is None:
                scores = answer.scores
            if isinstance(answer, Selection) and answer.merged is not None:
                merged.append(answer.merged)
            else:
                merged.append(tokens.projected[parts[-1]])
        has_merged = any(isinstance(a, Selection) and a.merged is not None for a in picked)
        if self.extra is not None:
            extra = self.extra[~torch.isin(self.extra, torch.cat(parts))] if parts else self.extra
            parts.append(extra)
            merged.append(tokens.projected[extra])
        if not parts:
            indices = torch.empty(0, dtype=torch.int64, device=tokens.device)
            return Selection(indices, scores)
        indices, order = (parts[0] if len(parts) == 1 else torch.cat(parts)).sort()
        if not has_merged:
            return Selection(indices, scores)
        return Selection(indices, scores, torch.cat(merged)[order])


@dataclass(frozen=True)
class Job:
    """One image after planning and scoring.

    Attributes:
        tokens: the image.
        layout: allocation of the budget.
        scores: scores of all tokens [N], or None.
    """

    tokens: VisualTokens
    layout: Plan
    scores: Tensor | None

    @property
    def open(self) -> list[Group]:
        """Groups that keep some but not all of their tokens."""
        return [group for group in self.layout.groups if 0 < group.k < group.size(self.tokens)]

    def part(self, group: Group) -> VisualTokens:
        """The group's tokens as a separate image."""
        return self.tokens if group.index is None else self.tokens.subset(group.index)

    def rated(self, group: Group) -> Tensor | None:
        """Scores of the group's tokens [n], or None."""
        return self.scores if group.index is None or self.scores is None else self.scores[group.index]

    def finish(self, picks: Iterable[Tensor | Selection]) -> Selection:
        """Build the selection from one pick per open group, in order: indices [k], or a `Selection`."""
        chosen = iter(picks)
        picked: list[Tensor | Selection] = []
        for group in self.layout.groups:
            size = group.size(self.tokens)
            if group.k == size and size:
                picked.append(torch.arange(size, device=self.tokens.device))
            elif group.k:
                picked.append(next(chosen))
        return self.layout.assemble(self.tokens, picked, self.scores)


def plan(tokens: VisualTokens, budget: Budget, newline: str) -> Plan:
    """Allocate a budget: per image to all candidates together, per tile to each tile separately.

    A tile with fewer tokens than the budget per tile keeps all of them.

    Newline tokens (tile number -1) are not candidates under `drop` and `keep`; `keep` adds them to the budget. Under
    `as_released` they are candidates, as in DivPrune's released code (ZOO-Prune overrides this). A budget per image
    that equals N, or a ratio of 1, keeps the whole image including newlines.

    Args:
        tokens: the image.
        budget: number of tokens to keep.
        newline: one of `NEWLINES`.

    Raises:
        InvalidValueError: a budget that the image cannot fill, or one per frame, which an image does not have.
    """
    budget.refuse_frames()
    tile = tokens.tile
    if tile is None:
        return Plan((Group(None, budget.resolve(tokens.count)),))
    whole = budget.keep_ratio == 1 or budget.count == tokens.count
    if budget.at_most and budget.count is not None:
        whole = budget.count >= tokens.count
    if budget.per != "tile" and whole:
        return Plan((Group(None, tokens.count),))
    newlines = (tile == NEWLINE).nonzero().flatten() if newline == "keep" else None
    extra = newlines if newlines is not None and len(newlines) else None
    if budget.per == "tile":
        # A cropped tile may have fewer tokens than the budget.
        of_tile = budget if budget.count is None else replace(budget, at_most=True)
        groups = []
        for number in tile.unique().tolist():
            if number != NEWLINE:
                index = (tile == number).nonzero().flatten()
                groups.append(Group(index, of_tile.resolve(len(index))))
        return Plan(tuple(groups), extra)
    if newline == "as_released":
        return Plan((Group(None, budget.resolve(tokens.count)),))
    index = (tile != NEWLINE).nonzero().flatten()
    if len(index) == tokens.count:
        return Plan((Group(None, budget.resolve(tokens.count)),))
    if budget.count is not None and budget.count > len(index) and not budget.at_most:
        raise InvalidValueError(
            f"budget {budget.count} is above the {len(index)} visual tokens that are not newlines: "
            f"give 1 to {len(index)}, or newline=as_released"
        )
    return Plan((Group(index, budget.resolve(len(index))),), extra)
