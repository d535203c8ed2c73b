"""Losses of the embedded model's training: dense patch labels, word alignment, positions.

Answers alone leave the tower at chance for a long time (spec: embedded, recipe 2): these losses tell each
patch what it shows, in terms of the word embeddings that answers use, and where it is.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.model import WIDTH
from zoo_exp.embedded.scene import GRID, N_CONTENTS, N_KINDS, N_PATCH_COLORS
from zoo_exp.embedded.vocabulary import COLOR_NAMES, DIGITS, QUADRANTS, SHAPES, TOKEN_ID, WORDS

KIND_TOKENS = [TOKEN_ID[name] for name in (*SHAPES, *DIGITS, *WORDS)]
COLOR_TOKENS = [TOKEN_ID[name] for name in COLOR_NAMES]
SIDE_TOKENS = [TOKEN_ID[name] for name in ("left", "right", "top", "bottom", *QUADRANTS)]


class PatchObjectives(nn.Module):
    """Heads that exist in training only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.kind = nn.Linear(WIDTH, N_KINDS)
        self.color = nn.Linear(WIDTH, N_PATCH_COLORS)
        self.centre = nn.Linear(WIDTH, 1)
        self.contents = nn.Linear(WIDTH, N_CONTENTS)
        self.word_scale = nn.Parameter(torch.tensor([1.0, -4.0]))
        self.side_scale = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.place = nn.Linear(WIDTH, 2)
        line = (torch.arange(GRID) + 0.5) / GRID * 2 - 1
        places = torch.stack([line.repeat(GRID), line.repeat_interleave(GRID)], 1)
        self.register_buffer("places", places, persistent=False)  # x, y in -1 to 1 [N, 2]
        left, top = places[:, 0] < 0, places[:, 1] < 0
        halves = [left, ~left, top, ~top]
        quadrants = [top & left, top & ~left, ~top & left, ~top & ~left]
        self.register_buffer("sides", torch.stack(halves + quadrants, 1).float(), persistent=False)

    def dense(
        self, features: Tensor, pooled: Tensor, patches: Tensor, contents: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Kind, colour and centre of every patch, contents from CLS; also the kind accuracy on things.

        Args:
            features: tower features [B, N, Dv].
            pooled: pooled CLS [B, Dv].
            patches: labels [B, 3, N].
            contents: what is there at all [B, N_CONTENTS].
        """
        normed = self.norm(features).flatten(0, 1)
        kind, color, centre = (patches[:, i].flatten() for i in range(3))
        weight = torch.where(kind > 0, 1.0, 0.3)
        kinds, colors = self.kind(normed), self.color(normed)

        def weighted(logits: Tensor, label: Tensor) -> Tensor:
            return (functional.cross_entropy(logits, label, reduction="none") * weight).sum() / weight.sum()

        bce = functional.binary_cross_entropy_with_logits
        loss = weighted(kinds, kind) + weighted(colors, color)
        loss = (
            loss
            + 3 * bce(self.centre(normed)[:, 0], centre.float())
            + 2 * bce(self.contents(pooled), contents)
        )
        with torch.no_grad():
            accuracy = (kinds.argmax(-1) == kind)[kind > 0].float().mean()
        return loss, accuracy

    def alignment(self, projected: Tensor, embeddings: Tensor, patches: Tensor) -> Tensor:
        """A patch's projected feature [B, N, D] must score the words for what it shows."""
        normed = functional.rms_norm(projected, projected.shape[-1:]).flatten(0, 1)
        logits = normed @ embeddings[KIND_TOKENS + COLOR_TOKENS].T * self.word_scale[0] + self.word_scale[1]
        kind, color = patches[:, 0].flatten(), patches[:, 1].flatten()
        shown = [functional.one_hot(kind, N_KINDS)[:, 1:], functional.one_hot(color, N_PATCH_COLORS)[:, 1:]]
        positive = torch.tensor(4.0, device=logits.device)
        loss = functional.binary_cross_entropy_with_logits(
            logits, torch.cat(shown, 1).float(), pos_weight=positive
        )
        return 20 * loss

    def position(self, projected: Tensor, embeddings: Tensor) -> Tensor:
        """A projected feature must score the words for its side of the picture, and its place linearly."""
        normed = functional.rms_norm(projected, projected.shape[-1:])
        logits = normed @ embeddings[SIDE_TOKENS].T * self.side_scale[0] + self.side_scale[1]
        sides = functional.binary_cross_entropy_with_logits(logits, self.sides.expand_as(logits))
        place = functional.mse_loss(self.place(normed), self.places.expand(*normed.shape[:2], 2))
        return sides + 2 * place
