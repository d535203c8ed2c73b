"""Prompts with videos for the tiny models of `tiny_families`, and a reference for them."""

import inspect
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tiny_changes import CANNOT_BE_BUILT
from tiny_configs import END, IMAGE, START, VIDEO
from tiny_families import encoder_arguments, image_lengths
from torch import Tensor

from zoo_exp.models.families import adapter_for
from zoo_exp.models.generic_support import find_parts, vision_language_types

_VIDEO_TYPES = (
    *(
        "qwen2_5_vl",
        "qwen3_vl",
        "llava_onevision",
        "llava_next_video",
        "cohere_compass",
        "cosmos3_edge",
        "cosmos3_omni",
    ),
    *(
        "ernie4_5_vl_moe",
        "exaone4_5",
        "glm46v",
        "glm4v",
        "glm4v_moe",
        "glm_ocr",
        "glmga",
        "hyperclovax_vision_v2",
    ),
    *("lfm3_vl", "minimax_m3_vl", "muse_glimmer", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl_moe"),
    *("video_llama_3", "video_llava"),
)
VIDEO_TYPES = tuple(t for t in _VIDEO_TYPES if t in vision_language_types() and t not in CANNOT_BE_BUILT)
"""Types whose videos the tests prune, as far as the installed transformers has them."""
_NO_PIXELS = "its tiny model has no random videos"
_NO_VIDEOS = {
    "gemma4": _NO_PIXELS,
    "glm5_next": "images and videos have one placeholder, told apart by a span that its tiny model does not have",
    "kimi_k25": "transformers itself fails on a video of its tiny model",
    "minicpm_ocr": _NO_PIXELS,
    "minicpmv4_6": _NO_PIXELS,
    "minicpmv4_7": _NO_PIXELS,
}
NO_VIDEOS = {name: why for name, why in _NO_VIDEOS.items() if name in vision_language_types()}
"""Types with videos that the tests do not prune."""
FRAMES = 3
MERGED = {"ernie4_5_vl_moe": 2}
"""Frames that an encoder merges into one step of the time axis."""
SEPARATED = (
    "cohere_compass",
    "cosmos3_edge",
    "cosmos3_omni",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_vl",
    "qwen3_vl_moe",
)
"""Types in whose prompts a timestamp stands before every frame."""
IN_IMAGE_TOKENS = ("glm46v", "glm4v", "glm4v_moe", "glm_ocr", "glmga", "glm5_next")
"""Types whose processors write image tokens for videos."""
_IMAGE_NAMES = ("pixel_values", "pixel_values_images", "image_grid_thw", "image_sizes", "image_merge_sizes")
_VIDEO_NAMES = ("pixel_values_videos", "video_grid_thw", "video_merge_sizes")
FIVE = ("llava_next_video", "llava_onevision", "video_llava")
"""Types that take videos as [B, frames, 3, height, width]."""


def frames_of(model: Any) -> int:
    """Frames of the videos of a type."""
    return 2 * MERGED.get(model.config.model_type, 0) or FRAMES


def video_arguments(model: Any, count: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Random videos of `frames_of` frames."""
    family, vlm = model.config.model_type, find_parts(model)[0]
    known = inspect.signature(type(vlm).get_video_features).parameters
    vision = model.config.vision_config
    if family in FIVE:
        return {"pixel_values_videos": torch.randn(count, FRAMES, 3, 56, 56, generator=generator)}
    if "video_grid_thw" not in known:
        raise ValueError(f"{family}: no random videos")
    like = encoder_arguments(model, (1,), generator)["pixel_values"]
    grids = torch.tensor([[frames_of(model), 4, 4 * (i % 2 + 1)] for i in range(count)])
    patches = int(grids.prod(dim=1).sum())
    given = {
        "pixel_values_videos": torch.randn(patches, *like.shape[1:], generator=generator),
        "video_grid_thw": grids,
    }
    if "video_merge_sizes" in known:
        given["video_merge_sizes"] = torch.tensor([getattr(vision, "spatial_merge_size", 2)] * count)
    return given


def video_prompt(
    model: Any, rows: Sequence[Sequence[str]] = (("video",),), seed: int = 0
) -> dict[str, Tensor]:
    """A left-padded batch of prompts of random words around images and videos.

    Args:
        model: a model of `tiny_family`.
        rows: `image` or `video` for each unit of each prompt.
        seed: of words and pixels.
    """
    generator = torch.Generator().manual_seed(seed)
    family = model.config.model_type
    kinds = [kind for row in rows for kind in row]
    inputs: dict[str, Tensor] = {}
    lengths = {}
    for kind in sorted(set(kinds)):
        count = kinds.count(kind)
        given = (
            encoder_arguments(model, [row.count("image") for row in rows], generator)
            if kind == "image"
            else video_arguments(model, count, generator)
        )
        inputs |= given
        sizes = image_lengths(model, given) if kind == "image" else video_lengths(model, given)
        each = len(sizes) // count
        lengths[kind] = iter([sum(sizes[i * each : (i + 1) * each]) for i in range(count)])
    prompts = []
    for b, row in enumerate(rows):
        ids = [1, *_words(3 + 2 * b, generator)]
        for kind in row:
            n = next(lengths[kind])
            token = VIDEO if kind == "video" and family not in IN_IMAGE_TOKENS else IMAGE
            if kind == "video" and family in (*SEPARATED, *IN_IMAGE_TOKENS):
                for _ in range(FRAMES):
                    ids += [*_words(2, generator), START, *[token] * (n // FRAMES), END]
            else:
                ids += [START, *[token] * n, END]
            ids += _words(3, generator)
        prompts.append(torch.tensor(ids))
    longest = max(map(len, prompts))
    ids = torch.stack([torch.cat([p.new_zeros(longest - len(p)), p]) for p in prompts])
    mask = torch.stack([torch.cat([p.new_zeros(longest - len(p)), torch.ones_like(p)]) for p in prompts])
    return typed(model, {"input_ids": ids, "attention_mask": mask, **inputs})


@torch.no_grad()
def video_lengths(model: Any, given: dict[str, Tensor]) -> list[int]:
    """Rows of every video or frame in the prompt."""
    adapter = adapter_for(model)
    known = inspect.signature(type(adapter.vlm).get_video_features).parameters
    renamed = {"pixel_values": given["pixel_values_videos"]} if "pixel_values" in known else {}
    named = given if not renamed else {**given, **renamed, "pixel_values_videos": None}
    output = adapter.vlm.get_video_features(
        **{n: v for n, v in named.items() if v is not None}, return_dict=True
    )
    behind = int(newline_behind(adapter.vlm))
    rows = adapter.pooled(output, given)
    return [p.reshape(-1, p.shape[-1]).shape[0] + behind for p in rows]


def newline_behind(vlm: Any) -> bool:
    """Whether `forward` puts a newline behind a video (LLaVA-OneVision of transformers 5.17)."""
    known = inspect.signature(type(vlm).get_video_features).parameters
    return "pixel_values" in known and vlm.config.model_type == "llava_onevision"


def _words(count: int, generator: torch.Generator) -> list[int]:
    return torch.randint(3, 80, (count,), generator=generator).tolist()


def typed(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the token types that some processors write: 1 for images, 2 for videos."""
    known = {
        *inspect.signature(model.forward).parameters,
        *inspect.signature(type(find_parts(model)[0]).forward).parameters,
    }
    ids = inputs["input_ids"]
    only_video = inputs.get("pixel_values") is None and inputs.get("pixel_values_images") is None
    kinds = (ids == IMAGE).long() * (2 if only_video else 1) + 2 * (ids == VIDEO).long()
    return {**inputs, **{n: kinds for n in ("mm_token_type_ids", "token_type_ids") if n in known}}


def split_video_rows(
    model: Any, given: dict[str, Tensor], rows: Sequence[Sequence[str]]
) -> list[dict[str, Tensor]]:
    """The prompts of a batch, alone and without padding."""
    taken = dict.fromkeys(("image", "video"), 0)
    alone = []
    for b, row in enumerate(rows):
        real = given["attention_mask"][b].bool()
        own = {"input_ids": given["input_ids"][b, real][None]}
        own["attention_mask"] = torch.ones_like(own["input_ids"])
        for kind, names in (("image", _IMAGE_NAMES), ("video", _VIDEO_NAMES)):
            mine = slice(taken[kind], taken[kind] + row.count(kind))
            taken[kind] = mine.stop
            for name in names if mine.stop > mine.start else ():
                value = given.get(name)
                if value is None:
                    continue
                grids = given.get(f"{kind}_grid_thw") if name.startswith("pixel") else None
                if grids is None:
                    own[name] = value[mine]
                else:
                    own[name] = torch.cat(value.split(grids.prod(dim=1).tolist())[mine])
        alone.append(typed(model, own))
    return alone


def stays(given: dict[str, Tensor], row: Sequence[str], chosen: Sequence[Any]) -> Tensor:
    """Columns that selections leave of one prompt [L] (bool).

    Args:
        given: the prompt.
        row: its units, one image and one video at most.
        chosen: their selections.
    """
    ids = given["input_ids"][0]
    left = ~visual_columns(given)[0]
    for kind, selection in zip(row, chosen, strict=True):
        mine = ids == (IMAGE if kind == "image" else VIDEO)
        columns = (mine if len(row) > 1 else visual_columns(given)[0]).nonzero().squeeze(1)
        left[columns[selection.indices]] = True
    return left


def visual_columns(given: dict[str, Tensor]) -> Tensor:
    """Visual tokens of the prompts [B, L] (bool)."""
    return (given["input_ids"] == IMAGE) | (given["input_ids"] == VIDEO)


def handed_positions(model: Any, given: dict[str, Tensor], steps: int) -> list[Tensor | None]:
    """Positions that the unpruned model hands to its decoder: of the prompt, and of every new token."""
    seen: list[Tensor | None] = []
    hook = find_parts(model)[1].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs.get("position_ids")), with_kwargs=True
    )
    try:
        with torch.no_grad():
            model.generate(**given, max_new_tokens=steps, do_sample=False)
    finally:
        hook.remove()
    return seen


@contextmanager
def only_rows(vlm: Any, keep: dict[str, Tensor]):
    """Let the model see images and videos that have no other visual tokens than `keep`, by kind."""
    own, inside = vlm.__dict__, []

    def fewer(kind: str, original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            if inside:  # Qwen3-VL encodes videos as images
                return original(*args, **kwargs)
            inside.append(kind)
            own.pop("image_newline", None)
            try:
                output = original(*args, **kwargs)
            finally:
                inside.pop()
            given = output.pooler_output
            rows = torch.cat([p.reshape(-1, p.shape[-1]) for p in given])
            if kind == "video" and newline_behind(vlm):
                rows = torch.cat([rows, vlm.image_newline[None]])
                own["image_newline"] = _NoRows(vlm.image_newline)
            rows = rows[keep[kind]]
            if isinstance(given, Tensor):
                output.pooler_output = rows[None] if given.ndim == 3 else rows
            else:
                output.pooler_output = [rows[None] if kind == "video" and given[0].ndim == 3 else rows]
            levels = getattr(output, "deepstack_features", None)
            if levels is not None:
                output.deepstack_features = [
                    r[keep[kind]] if isinstance(r, Tensor) else [torch.cat(list(r))[keep[kind]]]
                    for r in levels
                ]
            return output

        return call

    for kind in keep:
        own[f"get_{kind}_features"] = fewer(kind, getattr(vlm, f"get_{kind}_features"))
    try:
        yield
    finally:
        own.pop("image_newline", None)
        for kind in keep:
            del own[f"get_{kind}_features"]


class _NoRows:
    """In the place of a newline that `forward` would put behind the rows of a video once more."""

    def __init__(self, newline: Tensor) -> None:
        self.newline = newline

    def __getitem__(self, index: Any) -> Tensor:
        return self.newline.new_zeros(1, 0, len(self.newline))


@torch.no_grad()
def cut_reference(
    model: Any, given: dict[str, Tensor], stays: Tensor, steps: int, *, original: bool
) -> Tensor:
    """Logits [steps, V] of the next tokens of one prompt that never held the dropped tokens, without a cache.

    Args:
        model: the model, not pruned.
        given: one prompt without padding.
        stays: columns that stay [L] (bool).
        steps: greedy steps.
        original: whether every token keeps the position of the unpruned prompt.
    """
    ids = given["input_ids"]
    in_images = "pixel_values" not in given and "pixel_values_images" not in given
    keep = {
        "image": stays[ids[0] == IMAGE].nonzero().squeeze(1),
        "video": stays[(ids[0] == VIDEO) | ((ids[0] == IMAGE) & in_images)].nonzero().squeeze(1),
    }
    handed = handed_positions(model, given, steps) if original else []
    positions = handed[0][..., stays] if original else None
    ids = ids[:, stays]
    pixels = {
        n: v for n, v in given.items() if n not in ("input_ids", "attention_mask") and "type_ids" not in n
    }
    logits = []
    with only_rows(find_parts(model)[0], keep):
        for step in range(steps):
            call = typed(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels})
            if positions is not None:
                call["position_ids"] = positions
            logits.append(model(**call, use_cache=False).logits[0, -1])
            ids = torch.cat([ids, logits[-1].argmax().view(1, 1)], dim=1)
            if positions is not None and step + 1 < steps:
                positions = torch.cat([positions, handed[step + 1]], dim=-1)
    return torch.stack(logits)
