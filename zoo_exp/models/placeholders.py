"""Which tokens of a prompt are visual, and to which image or video they belong."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.generic_support import READ_ON

KINDS = ("image", "video")
_VIDEO_ARGUMENTS = ("pixel_values_videos", "video_grid_thw")


class _Counted(Protocol):
    @property
    def count(self) -> int: ...


_Unit = TypeVar("_Unit", bound=_Counted)


def placeholders(
    adapter: Any, ids: Tensor, kinds: Sequence[str] = KINDS, among: Sequence[str] | None = None
) -> Tensor:
    """Columns of visual tokens [B, L] (bool).

    Args:
        adapter: of the model.
        ids: `input_ids` [B, L].
        kinds: `image`, `video` or both.
        among: what came with the prompt; None for `kinds`. GLM's processors write image tokens for videos.
    """
    found = torch.zeros_like(ids, dtype=torch.bool)
    for kind in kinds:
        token = adapter.image_token_id if kind == "image" else adapter.video_token_id
        slots = found if token is None else ids == token
        if kind == "video" and "image" not in (among or kinds) and not bool(slots.any()):
            slots = ids == adapter.image_token_id
        found = found | slots
    return found


def grouped(slots: Tensor, units: Sequence[_Unit], kind: str = "image") -> list[list[_Unit]]:
    """Assign images or videos to prompts by the number of placeholders.

    Args:
        slots: columns of their placeholders [B, L] (bool).
        units: images or videos of all rows, in order.
        kind: what they are, for messages.

    Raises:
        InvalidValueError: the placeholders of a row do not match whole images, or images are left over.
    """
    counts = slots.sum(dim=1).tolist()
    rows: list[list[_Unit]] = []
    rest = iter(units)
    for number, count in enumerate(counts):
        mine: list[_Unit] = []
        while count > 0 and (unit := next(rest, None)) is not None:
            mine.append(unit)
            count -= unit.count
        if count != 0:
            raise InvalidValueError(
                f"row {number} has {counts[number]} {kind} placeholders, which its {kind}s with "
                f"{[i.count for i in units]} visual tokens do not fill: one placeholder per visual token"
            )
        rows.append(mine)
    left = sum(1 for _ in rest)
    if left:
        raise InvalidValueError(f"{left} of {len(units)} {kind}s have no placeholder in the prompts")
    return rows


def given_kinds(adapter: Any, given: Mapping[str, Any]) -> tuple[str, ...]:
    """Whether images, videos or both come with a call of the inner model (arguments by name).

    Raises:
        InvalidValueError: a video, and a model that takes none.
    """
    encoded = given.get("mm_encoder_outputs")
    encoded = encoded if isinstance(encoded, Mapping) else {}
    pixels = adapter.pixel_inputs
    has_images = any(given.get(n) is not None for n in pixels) or encoded.get("image") is not None
    named = {**given, **given.get("kwargs", {})}
    has_video = named.get("pixel_values_videos") is not None or encoded.get("video") is not None
    if has_video and not adapter.has_video:
        raise no_video(adapter)
    return tuple(kind for kind, there in zip(KINDS, (has_images, has_video), strict=True) if there)


def check_prompt(adapter: Any, ids: Tensor | None, past: int, kinds: Sequence[str]) -> None:
    """Check that a prompt's images and videos can be pruned.

    Args:
        adapter: of the model.
        ids: `input_ids` [B, L], if they are given.
        past: tokens in the cache.
        kinds: what comes with the prompt.

    Raises:
        InvalidValueError: they come later, without ids, or not at all.
    """
    kind = kinds[0] if kinds else "image"
    if kinds and past > 0:
        raise InvalidValueError(
            f"{'an' if kind == 'image' else 'a'} {kind} that comes when the cache already holds a prompt cannot be "
            "pruned: pass the whole conversation with an empty cache and without prefill_chunk_size, or run that turn "
            "without pruning"
        )
    if kinds and ids is None:
        raise InvalidValueError(
            f"{kind}s with inputs_embeds cannot be pruned, as nothing says where their placeholders are: pass input_ids"
        )
    if past or ids is None:
        return
    for kind, token, pixels in (
        ("image", adapter.image_token_id, "pixel_values"),
        ("video", adapter.video_token_id, "pixel_values_videos"),
    ):
        in_image_tokens = kind == "image" and "video" in kinds  # GLM writes image tokens for videos
        if kind in kinds or in_image_tokens or token is None or not bool((ids == token).any()):
            continue
        raise InvalidValueError(
            f"the prompt has {kind} placeholders, but no {kind} came with it: pass {pixels}"
        )


def refuse_video_arguments(adapter: Any) -> Callable[[], None]:
    """Refuse a video in `generate` of a model that takes none; returns a function that undoes this."""
    model, name = adapter.model, "_validate_model_kwargs"
    original = getattr(model, name, None)
    if adapter.has_video or original is None:
        return lambda: None

    def check(model_kwargs: dict[str, Any]) -> Any:
        if any(model_kwargs.get(argument) is not None for argument in _VIDEO_ARGUMENTS):
            raise no_video(adapter)
        return original(model_kwargs)

    model.__dict__[name] = check
    return lambda: model.__dict__.pop(name, None)


def no_video(adapter: Any) -> InvalidValueError:
    """What to say of a video to a model that takes none."""
    return InvalidValueError(
        f"model type '{adapter.family_name}' takes images, but no videos: give frames of the video as images "
        f"(pixel_values), or take a model such as qwen2_5_vl or llava_onevision. {READ_ON}"
    )


def refuse_misplaced_images(vlm: Any, given: Mapping[str, Any], image_token_id: int) -> None:
    """Refuse beam search and several responses per prompt if pixels are repeated instead of features.

    `generate` of transformers 5.17 (`_expand_inputs_for_generation`) repeats every row of `input_ids` and every image
    separately, so that two beams of a prompt with the images A and B read A A and B B. Newer versions repeat features
    row by row, and their `forward` takes `mm_encoder_outputs`.

    Args:
        vlm: the inner model.
        given: arguments of its call, by name.
        image_token_id: the placeholder.

    Raises:
        InvalidValueError: prompts and images are repeated in this way, and some prompt has several images.
    """
    ids, pixels = given.get("input_ids"), given.get("pixel_values")
    if ids is None or pixels is None or "mm_encoder_outputs" in inspect.signature(vlm.forward).parameters:
        return
    with_images = int((ids == image_token_id).any(dim=1).sum())
    copies = range(2, len(ids) + 1)
    if len(pixels) > with_images and any(_repeated(ids, n) and _repeated(pixels, n) for n in copies):
        import transformers

        raise InvalidValueError(
            f"beam search and several responses per prompt: transformers {transformers.__version__} assigns the images "
            "of a prompt with several of them to the wrong rows; use transformers 5.23, or one image per prompt"
        )


def _repeated(rows: Tensor, times: int) -> bool:
    """Whether every row is repeated `times` times consecutively."""
    if len(rows) % times:
        return False
    groups = rows.view(-1, times, *rows.shape[1:])
    return bool((groups == groups[:, :1]).all())
