"""Videos: their frames are encoded like images, and selected one by one or as one sequence.

A frame is one step of the time axis that the language model reads. Qwen's encoders merge two frames of the file into
one such step.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.budget import Budget
from zoo_exp.core.seeding import generator_for
from zoo_exp.core.tokens import Selection, VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.generic_support import READ_ON
from zoo_exp.selectors.base import Selector

VIDEO_INPUTS = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
"""Inputs of video encoders; the same names with "image" are those of image encoders."""
_BY_IMAGE = ("object_attention", "cls", "cls_key", "tiles", "replay", "pixels_encoder", "places")
"""Fields of one image that are undefined for several frames together."""
_NEEDS = {"object_attention", "cls", "replay", "resize"}
"""Needs of selectors that these fields fill."""


@dataclass(frozen=True)
class Video:
    """One video of a prompt.

    Attributes:
        frames: visual tokens of each frame, in order.
        tail: rows after the last frame, such as a newline [r, D].
    """

    frames: tuple[VisualTokens, ...]
    tail: Tensor

    @property
    def count(self) -> int:
        """Visual tokens of the whole video."""
        return sum(frame.count for frame in self.frames) + len(self.tail)

    @property
    def projected(self) -> Tensor:
        """Rows that the language model reads [N, D]."""
        return torch.cat([*(frame.projected for frame in self.frames), self.tail])

    def whole(self, needs: frozenset[str]) -> VisualTokens:
        """All frames as one sequence of visual tokens; rows of `tail` are newlines (tile number -1).

        Args:
            needs: of the selector.

        Raises:
            InvalidValueError: a selector that works on one image at a time.
        """
        first = self.frames[0]
        if len(self.frames) == 1 and not len(self.tail):
            return first
        lost = sorted(need for need in needs & _NEEDS if first.has(need))
        if lost:
            raise InvalidValueError(
                f"a selector that needs '{lost[0]}' works on one image at a time: give a video a budget per frame, "
                "such as 16/frame"
            )
        fields: dict[str, Any] = dict.fromkeys(_BY_IMAGE)
        for name in (
            "features",
            "preactivation",
            "cls_attention",
            "received_attention",
            "keys",
            "clip_image",
        ):
            fields[name] = self._joined([getattr(frame, name) for frame in self.frames])
        fields["hidden"] = {
            layer: self._joined([frame.hidden[layer] for frame in self.frames]) for layer in first.hidden
        }
        if first.layer_attention is not None:
            fields["layer_attention"] = lambda layer: self._joined(
                [frame.layer_attention(layer) for frame in self.frames if frame.layer_attention is not None]
            )
        tile = None
        if len(self.tail):
            sizes = torch.tensor([*(frame.count for frame in self.frames), len(self.tail)])
            numbers = torch.tensor([*range(len(self.frames)), -1])
            tile = numbers.repeat_interleave(sizes).to(first.device)
        return replace(first, projected=self.projected, grid=None, tile=tile, **fields)

    def _joined(self, rows: Sequence[Tensor | None]) -> Tensor | None:
        """Rows of all frames [N, ...], with zeros for the tail; None if a frame has none."""
        known = [r for r in rows if r is not None]
        if len(known) < len(rows):
            return None
        return torch.cat([*known, known[0].new_zeros(len(self.tail), *known[0].shape[1:])])

    def select(self, selector: Selector, budget: Budget, seed: int, name: str) -> Selection:
        """Select tokens of every frame separately.

        Args:
            selector: the selector.
            budget: a budget per frame.
            seed: seed of the frames' generators, combined with the number of the frame.
            name: number of the video in its prompt.

        Raises:
            InvalidValueError: a frame has fewer tokens than the budget.
        """
        budgets = {frame.count: budget.of_frame(frame.count) for frame in self.frames}
        generators = [generator_for(seed, name, number) for number in range(len(self.frames))]
        answers = [
            answer
            for count in budgets
            for answer in selector.select_many(
                [f for f in self.frames if f.count == count],
                budgets[count],
                [g for g, f in zip(generators, self.frames, strict=True) if f.count == count],
            )
        ]
        return self._merged(answers, keep_tail=selector.newline == "keep")

    def _merged(self, answers: Sequence[Selection], *, keep_tail: bool) -> Selection:
        """One selection of the whole video from those of its frames."""
        indices, merged, start = [], [], 0
        for frame, answer in zip(self.frames, answers, strict=True):
            indices.append(answer.indices + start)
            merged.append(frame.projected[answer.indices] if answer.merged is None else answer.merged)
            start += frame.count
        if keep_tail:
            indices.append(start + torch.arange(len(self.tail), device=self.tail.device))
            merged.append(self.tail)
        changed = any(answer.merged is not None for answer in answers)
        scores = self._joined([answer.scores for answer in answers])
        return Selection(torch.cat(indices), scores, torch.cat(merged) if changed else None)


def collect_videos(
    adapter: Any, capture: Any, pooled: Sequence[Tensor], call: Mapping[str, Any], needs: frozenset[str]
) -> list[Video]:
    """The frames of every video of a batch, collected like images.

    Args:
        adapter: of the model.
        capture: as in the adapter's `collect`, like the arguments that follow.
        pooled: rows of every video or frame.
        call: arguments of `get_video_features` by name.
        needs: fields to fill besides `projected`.

    Raises:
        InvalidValueError: the frames cannot be told apart, or a need that this family cannot fill.
    """
    videos = split_frames(pooled, call, getattr(adapter.vlm, "image_newline", None), adapter.family_name)
    named = image_call(call, [len(frames) for frames, _ in videos])
    flat = iter(adapter.collect(capture, [f for frames, _ in videos for f in frames], named, needs))
    if call.get("video_grid_thw") is not None:
        return [Video(tuple(next(flat) for _ in frames), tail) for frames, tail in videos]
    return [
        Video(tuple(replace(next(flat), grid=square(len(f)), tile=None) for f in frames), tail)
        for frames, tail in videos
    ]


def image_call(call: Mapping[str, Any], times: Sequence[int]) -> dict[str, Any]:
    """Arguments of a video encoder as those of an image encoder, with every frame as an image.

    Args:
        call: arguments of `get_video_features` by name.
        times: number of frames of each video.
    """
    named = {name: value for name, value in call.items() if name not in VIDEO_INPUTS}
    if call.get("pixel_values_videos") is not None:
        named["pixel_values"] = call["pixel_values_videos"]
    grids = call.get("video_grid_thw")
    if grids is not None:
        repeats = torch.tensor(times, device=grids.device)
        of_frame = grids.clone()
        of_frame[:, 0] = grids[:, 0] // repeats.to(grids)
        named["image_grid_thw"] = of_frame.repeat_interleave(repeats, dim=0)
    return named


def split_frames(
    pooled: Sequence[Tensor], call: Mapping[str, Any], newline: Tensor | None, family: str
) -> list[tuple[list[Tensor], Tensor]]:
    """Rows of the frames of each video, and rows after the last frame.

    Args:
        pooled: rows of each video [N, D], or of each frame.
        call: arguments of `get_video_features` by name.
        newline: the row that some families append to a video [D], or None.
        family: for the message.

    Raises:
        InvalidValueError: the frames cannot be told apart.
    """
    pixels, grids = call.get("pixel_values_videos"), call.get("video_grid_thw")
    rows = [p.reshape(-1, p.shape[-1]) for p in pooled]
    if grids is not None and len(grids) == len(rows):
        times = [_steps(grid, len(r)) for grid, r in zip(grids.tolist(), rows, strict=True)]
    elif (
        isinstance(pixels, Tensor)
        and pixels.ndim == 5
        and len(rows) in (len(pixels), pixels.shape[:2].numel())
    ):
        frames = pixels.shape[1]
        if len(rows) != len(pixels):
            rows = [torch.cat(rows[i : i + frames]) for i in range(0, len(rows), frames)]
        times = [frames] * len(rows)
    else:
        raise _unknown(family)
    videos = []
    for video, count in zip(rows, times, strict=True):
        has_newline = newline is not None and len(video) and bool((video[-1] == newline.to(video)).all())
        body, tail = video.tensor_split([len(video) - bool(has_newline)])
        if not len(body) or len(body) % count:
            raise _unknown(family)
        videos.append((list(body.split(len(body) // count)), tail))
    return videos


def with_newlines(videos: list[Video], slots: Tensor, embeds: Tensor, newline: Tensor | None) -> list[Video]:
    """Videos with the newline that `forward` puts behind each (LLaVA-OneVision of transformers 5.17), if it does.

    Newer versions return it with the video's features.

    Args:
        videos: of all prompts, in order.
        slots: columns of their placeholders [B, L] (bool).
        embeds: embeddings of the prompts with the visual tokens in place [B, L, D].
        newline: the row [D], or None.
    """
    if newline is None or not videos or any(len(video.tail) for video in videos) or not bool(slots.any()):
        return videos
    row = int(slots.any(dim=1).nonzero()[0])
    columns = slots[row].nonzero().squeeze(1)
    behind = columns[videos[0].count :][:1]
    if not len(behind) or not torch.equal(embeds[row, behind[0]], newline.to(embeds)):
        return videos
    return [replace(video, tail=newline.detach().to(video.projected)[None]) for video in videos]


def square(count: int) -> tuple[int, int] | None:
    """The raster of a frame of a model with square inputs."""
    side = math.isqrt(count)
    return (side, side) if side > 1 and side * side == count else None


def _steps(grid: Sequence[int], rows: int) -> int:
    """Frames of a video with `rows` tokens: its time steps, or fewer where an encoder merges them."""
    times, height, width = grid
    for steps in (n for n in range(times, 0, -1) if times % n == 0 and rows % n == 0):
        factor = math.isqrt(height * width * steps // rows) if rows else 0
        if factor and (height // factor) * (width // factor) * steps == rows:
            return int(steps)
    return 1


def _unknown(family: str) -> InvalidValueError:
    return InvalidValueError(
        f"model type '{family}': a video cannot be pruned, as how its frames are laid out is not known: give its "
        f"frames as images, or run without pruning. {READ_ON}"
    )
