"""Images of random visual tokens for the contract suite."""

import dataclasses

import torch
from torch import Tensor

from zoo_exp.core.sensitivity import MLP
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError

ROW = 7
"""Tokens between two newlines of the tiled sample image."""


def sample_tokens(seed: int = 0, n_visual: int = 48, dtype: torch.dtype = torch.float32) -> VisualTokens:
    """An image of random visual tokens with every field filled; Dv 16, D 24, 5 question tokens in 4 words.

    Args:
        seed: of the values.
        n_visual: N, visual tokens; a grid of 6 rows where 6 divides N.
        dtype: of all fields.

    >>> sample_tokens(n_visual=12).grid
    (6, 2)
    """
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    mlp = MLP(draw(32, 16) / 4, draw(32) / 10, draw(24, 32) / 6, draw(24) / 10)
    mix = draw(n_visual, n_visual).softmax(dim=-1)
    features = draw(n_visual, 16)
    fields = dict(
        projected=mlp(features),
        features=features,
        preactivation=torch.nn.functional.linear(features, mlp.w1, mlp.b1),
        project=mlp,
        mlp=mlp,
        grid=(6, n_visual // 6) if n_visual and n_visual % 6 == 0 else None,
        cls_attention=draw(n_visual).softmax(dim=0),
        received_attention=draw(n_visual).softmax(dim=0),
        keys=draw(n_visual, 8),
        cls=draw(16),
        cls_key=draw(8),
        hidden={1: draw(n_visual, 16)},
        replay=lambda layer, hidden: torch.tanh(mix.to(hidden.dtype) @ hidden),
        text=draw(5, 24),
        text_words=torch.tensor([0, 1, 1, 2, 3]),
        clip_image=draw(n_visual, 12),
        clip_text=draw(2, 12),
        pixels_encoder=lambda grid: mlp(features[: grid[0] * grid[1]]),
    )
    objects = [draw(n_visual).softmax(dim=0) for _ in range(2)]
    return VisualTokens(
        **fields,  # type: ignore[arg-type]
        attention_heads=4,
        object_attention=objects[0],
        layer_attention=lambda layer: objects[layer - 1],
        question_words={"keywords": fields["text"], "all": fields["text"]},  # type: ignore[dict-item]
        places=torch.arange(n_visual),
        deepstack=torch.zeros(1, n_visual, 24, dtype=dtype),
    )


def tiled_tokens() -> tuple[VisualTokens, VisualTokens]:
    """A sample image, and the same with tiles and newlines.

    Newlines have a feature of their own where the language model reads it, and zeros in every captured field.

    Returns:
        The image, and the same as a base tile and two others in which a newline follows every row of 7 tokens.
    """
    whole = sample_tokens(n_visual=42)
    tile = torch.arange(42) // 14
    newline = 3 * torch.randn(24, generator=torch.Generator().manual_seed(9))
    filled: dict[str, object] = {}
    for name, value in vars(whole).items():
        rows = isinstance(value, Tensor) and len(value) == 42 and name not in ("tile", "places")
        if rows:
            filled[name] = with_newlines(value)
    projected = with_newlines(whole.projected)
    tile = with_newlines(tile + 1) - 1
    projected[tile == -1] = newline
    replay, places = whole.replay, (tile != -1).nonzero().flatten()

    def rest(layer: int, hidden: Tensor) -> Tensor:
        answer = torch.zeros_like(hidden)
        if replay is not None:
            answer[..., places, :] = replay(layer, hidden[..., places, :])
        return answer

    hidden = {layer: with_newlines(value) for layer, value in whole.hidden.items()}
    given = {**vars(whole), **filled, "projected": projected, "tile": tile, "grid": None, "places": None}
    return whole, VisualTokens(**{**given, "hidden": hidden, "replay": rest})


def with_newlines(rows: Tensor) -> Tensor:
    """Rows [42, ...] with a row of zeros behind every 7."""
    parts = rows.unflatten(0, (-1, ROW))
    return torch.cat([parts, torch.zeros_like(parts[:, :1])], dim=1).flatten(0, 1)


def part_of(tokens: VisualTokens, index: Tensor) -> VisualTokens:
    """Some tokens (also repeated ones), with the functions of the whole image.

    Args:
        tokens: the image.
        index: the tokens [K].
    """
    grid = tokens.grid if len(index) == tokens.count else None
    whole = tokens.layer_attention
    return dataclasses.replace(
        tokens.subset(index),
        grid=grid,
        replay=tokens.replay,
        layer_attention=None if whole is None else lambda layer: whole(layer)[index],
        pixels_encoder=tokens.pixels_encoder,
    )


def rows_of(field: Tensor | None) -> Tensor:
    """A field that every sample image has [N, ...].

    Raises:
        InvalidValueError: the image lacks it.
    """
    if field is None:
        raise InvalidValueError("a sample image lacks a field that it should have")
    return field
