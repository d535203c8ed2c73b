"""Training-only heads of world 2: what a patch shows, read from the vision encoder before the projector."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.scene import N_PATCH_COLORS
from zoo_exp.embedded.vocabulary import COLOR_NAMES, QUADRANTS
from zoo_exp.embedded.world2.layout import KINDS, N_CONTENTS_2, N_KINDS_2
from zoo_exp.embedded.world2.lexicon import TOKEN_ID_2

WORD_TOKENS = [TOKEN_ID_2[name] for name in (*KINDS, *COLOR_NAMES)]
SIDE_WORDS = [TOKEN_ID_2[name] for name in ("left", "right", "top", "bottom", *QUADRANTS)]


class DenseHeads(nn.Module):
    """Linear heads on the vision encoder's features, and two scales for the losses that are gone at the end.

    Args:
        width: width of the vision encoder's features (for Qwen, of a merged cell).
        pooled_width: width of the pooled CLS; 0 where the encoder has none.
        text_width: width of the language model.
    """

    def __init__(self, width: int, pooled_width: int, text_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.kind = nn.Linear(width, N_KINDS_2)
        self.color = nn.Linear(width, N_PATCH_COLORS)
        self.centre = nn.Linear(width, 1)
        self.contents = nn.Linear(pooled_width, N_CONTENTS_2) if pooled_width else None
        self.word_scale = nn.Parameter(torch.tensor([1.0, -4.0]))
        self.side_scale = nn.Parameter(torch.tensor([1.0, 0.0]))
        self.place = nn.Linear(text_width, 2)

    def dense(
        self, features: Tensor, patches: Tensor, pooled: Tensor | None = None, contents: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Kind, colour and centre of every patch, contents from CLS; also the kind accuracy on things.

        Args:
            features: features before the projector [B, N, Dv].
            patches: labels [B, 3, N].
            pooled: pooled CLS [B, Dv].
            contents: what is there at all [B, N_CONTENTS_2].
        """
        normed = self.norm(features).flatten(0, 1)
        kind, color, centre = (patches[:, i].flatten() for i in range(3))
        weight = torch.where(kind > 0, 1.0, 0.3)
        kinds, colors = self.kind(normed), self.color(normed)

        def weighted(logits: Tensor, label: Tensor) -> Tensor:
            return (functional.cross_entropy(logits, label, reduction="none") * weight).sum() / weight.sum()

        bce = functional.binary_cross_entropy_with_logits
        loss = (
            weighted(kinds, kind)
            + weighted(colors, color)
            + 3 * bce(self.centre(normed)[:, 0], centre.float())
        )
        if self.contents is not None and pooled is not None and contents is not None:
            loss = loss + 2 * bce(self.contents(pooled), contents)
        with torch.no_grad():
            accuracy = (kinds.argmax(-1) == kind)[kind > 0].float().mean()
        return loss, accuracy

    def alignment(self, projected: Tensor, embeddings: Tensor, patches: Tensor) -> Tensor:
        """A patch's projected feature [B, N, D] must score the words for what it shows; decays to zero in training."""
        normed = functional.rms_norm(projected, projected.shape[-1:]).flatten(0, 1)
        logits = normed @ embeddings[WORD_TOKENS].T * self.word_scale[0] + self.word_scale[1]
        kind, color = patches[:, 0].flatten(), patches[:, 1].flatten()
        shown = [functional.one_hot(kind, N_KINDS_2)[:, 1:], functional.one_hot(color, N_PATCH_COLORS)[:, 1:]]
        positive = torch.tensor(4.0, device=logits.device)
        loss = functional.binary_cross_entropy_with_logits(
            logits, torch.cat(shown, 1).float(), pos_weight=positive
        )
        return 20 * loss

    def sides(self, states: Tensor, embeddings: Tensor, places: Tensor) -> Tensor:
        """States of visual tokens inside the decoder must tell their side of the image; decays to zero in training.

        Args:
            states: hidden states of the visual tokens [B, N, D].
            embeddings: the word embeddings.
            places: x and y of each token in -1 to 1 [N, 2].
        """
        left, top = places[:, 0] < 0, places[:, 1] < 0
        halves = [left, ~left, top, ~top]
        quadrants = [top & left, top & ~left, ~top & left, ~top & ~left]
        labels = torch.stack(halves + quadrants, 1).float()
        normed = functional.rms_norm(states, states.shape[-1:])
        logits = normed @ embeddings[SIDE_WORDS].T * self.side_scale[0] + self.side_scale[1]
        sides = functional.binary_cross_entropy_with_logits(logits, labels.expand_as(logits))
        return sides + 2 * self.where(states, places)

    def where(self, states: Tensor, places: Tensor) -> Tensor:
        """States of visual tokens inside the decoder [B, N, D] must tell their place [N, 2] linearly."""
        normed = functional.rms_norm(states, states.shape[-1:])
        return functional.mse_loss(self.place(normed), places.expand(*normed.shape[:2], 2))


def raster_places(rows: int, cols: int) -> Tensor:
    """X and y of the cells of a raster in -1 to 1 [rows * cols, 2]."""
    y = (torch.arange(rows) + 0.5) / rows * 2 - 1
    x = (torch.arange(cols) + 0.5) / cols * 2 - 1
    return torch.stack([x.repeat(rows), y.repeat_interleave(cols)], 1)
