"""Tiny random models of every vision-language type of the installed transformers, prompts for them, and a reference."""

import inspect
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import torch
import transformers
from tiny_changes import CHANGES
from tiny_configs import END, IMAGE, START, VIDEO, tiny_config
from torch import Tensor

from zoo_exp.models.families import adapter_for
from zoo_exp.models.generic_rows import pixel_inputs
from zoo_exp.models.generic_support import find_parts, vision_language_types

TILES = ("llava_next", "llava_next_video", "llava_onevision")
LISTS = ("idefics2", "idefics3", "smolvlm", "granite_docling")


def tiny_family(model_type: str, *, attention: str | None = None, seed: int = 0, **changes: Any) -> Any:
    """A random model in evaluation mode; it never writes a placeholder and never stops early."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = tiny_config(
            transformers.CONFIG_MAPPING[model_type], **{**CHANGES.get(model_type, {}), **changes}
        )
        model_class = getattr(transformers, vision_language_types()[model_type])
        model = model_class._from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:  # wide enough that attention is not uniform and greedy answers differ
                    fan = parameter.shape[-1] if parameter.ndim == 3 else parameter[0].numel()
                    parameter.copy_(torch.randn(parameter.shape) * fan**-0.5)
                else:
                    parameter.add_(torch.randn(parameter.shape) * 0.1)
            head = model.get_output_embeddings()
            head.weight[[IMAGE, VIDEO, START, END, 0, 1, 2, 90, 91, 92, 93, 94]] = 0
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model.eval()


def encoder_arguments(model: Any, rows: Sequence[int], generator: torch.Generator) -> dict[str, Tensor]:
    """Random inputs of the vision encoder for prompts with `rows[b]` images each."""
    images = sum(rows)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    family, vlm = model.config.model_type, find_parts(model)[0]
    known = inspect.signature(type(vlm).get_image_features).parameters
    vision = getattr(model.config, "vision_config", None) or model.config
    patch, side = (
        _first(getattr(vision, name, default)) for name, default in (("patch_size", 14), ("image_size", 56))
    )
    special = SPECIAL.get(family)
    if special is not None:
        return special(model, rows, noise)
    if "image_grid_thw" in known:
        grids = [[1, 4 * (i % 2 + 1), 4] for i in range(images)]
        depth = getattr(vision, "temporal_patch_size", 1) or 1
        count = sum(t * h * w for t, h, w in grids)
        given = {
            "pixel_values": noise(count, 3 * depth * patch * patch),
            "image_grid_thw": torch.tensor(grids),
        }
        if "image_merge_sizes" in known:
            given["image_merge_sizes"] = torch.tensor([2] * images)
        return given
    if family in TILES:
        return {
            "pixel_values": noise(images, 3, 3, side, side),
            "image_sizes": torch.tensor([[side, 2 * side]] * images),
        }
    if family in LISTS:
        return {"pixel_values": noise(len(rows), rows[0], 3, side, side)}
    given = {"pixel_values": noise(images, 3, side, side)}
    if "image_sizes" in known and family != "llava":
        given["image_sizes"] = torch.tensor([[side, side]] * images)
    return given


def _sizes(model: Any, rows: Sequence[int], noise: Any) -> dict[str, Tensor]:
    """MiniCPM: patches of all images in a row, with the size of each."""
    side, images = model.config.vision_config.patch_size, sum(rows)
    return {
        "pixel_values": noise(1, 3, side, 32 * side * images),
        "target_sizes": torch.tensor([[8, 4]] * images),
    }


def _squares(model: Any, rows: Sequence[int], noise: Any) -> dict[str, Tensor]:
    """Kimi and PaddleOCR: one small image per patch."""
    images, side = sum(rows), model.config.vision_config.patch_size
    patches = noise(16 * images, 3, side, side)
    return {
        "pixel_values": patches,
        "image_grid_thw": torch.tensor([[1, 4, 4]] * images),
    }


def _placed(model: Any, rows: Sequence[int], noise: Any) -> dict[str, Tensor]:
    """Gemma 4: patches with their places."""
    images, side = sum(rows), model.config.vision_config.patch_size
    x = torch.arange(4)
    places = torch.stack([x.repeat(4), x.repeat_interleave(4)], dim=-1)
    return {
        "pixel_values": noise(images, 16, 3 * side**2),
        "image_position_ids": places.expand(images, -1, -1).clone(),
    }


SPECIAL: dict[str, Any] = {
    "gemma4": _placed,
    "kimi_k25": _squares,
    "paddleocr_vl": _squares,
    "minicpm_ocr": _sizes,
    "minicpmv4_6": _sizes,
    "minicpmv4_7": _sizes,
    "muse_glimmer": lambda model, rows, noise: {
        "pixel_values": noise(16 * sum(rows), 2 * 3 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 4, 4]] * sum(rows)),
    },
    "fuyu": lambda model, rows, noise: {
        pixel_inputs(find_parts(model)[0])[0]: noise(sum(rows), 4, 3 * model.config.patch_size**2)
    },
    "lfm2_vl": lambda model, rows, noise: {
        "pixel_values": noise(sum(rows), 16, 3 * 14 * 14),
        "spatial_shapes": torch.tensor([[4, 4]] * sum(rows)),
        "pixel_attention_mask": torch.ones(sum(rows), 16, dtype=torch.long),
    },
    "deepseek_vl_hybrid": lambda model, rows, noise: {
        "pixel_values": noise(sum(rows), 3, 56, 56),
        "high_res_pixel_values": noise(sum(rows), 3, 64, 64),
    },
    "granite_docling": lambda model, rows, noise: {
        "pixel_values": noise(len(rows), rows[0], 3, 56, 56),
        "pixel_attention_mask": torch.ones(len(rows), rows[0], dtype=torch.bool),
    },
    "video_llava": lambda model, rows, noise: {"pixel_values_images": noise(sum(rows), 3, 56, 56)},
}
"""Types whose processor lays images out in a way of its own."""


def tiny_prompt(model: Any, rows: Sequence[int] = (1,), seed: int = 0) -> dict[str, Tensor]:
    """A left-padded batch of prompts of random words; row b has `rows[b]` images."""
    generator = torch.Generator().manual_seed(seed)
    inputs = encoder_arguments(model, rows, generator) if sum(rows) else {}
    lengths: list[int] = []
    if inputs:
        lengths = image_lengths(model, inputs)
    if len(lengths) == 1 and sum(rows) > 1:
        lengths = [lengths[0] // sum(rows)] * sum(rows)
    of_one = len(lengths) // max(1, sum(rows))
    entries = iter(lengths)
    prompts = []
    for b, count in enumerate(rows):
        ids = [1, *torch.randint(3, 80, (3 + 2 * b,), generator=generator).tolist()]
        for _ in range(count):
            n = sum(next(entries) for _ in range(of_one))
            ids += [START, *[IMAGE] * n, END, *torch.randint(3, 80, (3,), generator=generator).tolist()]
        prompts.append(torch.tensor(ids))
    longest = max(map(len, prompts))
    ids = torch.stack([torch.cat([p.new_zeros(longest - len(p)), p]) for p in prompts])
    mask = torch.stack([torch.cat([p.new_zeros(longest - len(p)), torch.ones_like(p)]) for p in prompts])
    return with_types(model, {"input_ids": ids, "attention_mask": mask, **inputs})


@torch.no_grad()
def image_lengths(model: Any, inputs: dict[str, Tensor]) -> list[int]:
    """Rows of every entry that the model gives for some images."""
    adapter = adapter_for(model)
    call = adapter.encoder_call(inputs)
    return [p.reshape(-1, p.shape[-1]).shape[0] for p in adapter.pooled(adapter.image_features(**call), call)]


def with_types(model: Any, inputs: dict[str, Tensor], prompt: int | None = None) -> dict[str, Tensor]:
    """Add the token types that some processors write; the prompt has `prompt` columns (None: all)."""
    prompt = inputs["input_ids"].shape[1] if prompt is None else prompt
    known = {
        *inspect.signature(model.forward).parameters,
        *inspect.signature(type(find_parts(model)[0]).forward).parameters,
    }
    kinds = (inputs["input_ids"] == IMAGE).long()
    if model.config.model_type == "paligemma":  # 1 is what comes behind the prompt
        kinds = torch.zeros_like(kinds)
        kinds[:, prompt:] = 1
    return {**inputs, **{name: kinds for name in ("mm_token_type_ids", "token_type_ids") if name in known}}


def _first(value: Any) -> int:
    return value if isinstance(value, int) else value[0]


@contextmanager
def only_rows(vlm: Any, keep: Tensor):
    """Let the model see images that have no other visual tokens than `keep`, as numbers over the whole batch."""
    original, own = vlm.get_image_features, vlm.__dict__

    def fewer(*args: Any, **kwargs: Any) -> Any:
        output = original(*args, **kwargs)
        given = output.pooler_output
        if given is None:  # Fuyu
            output.last_hidden_state = output.last_hidden_state.flatten(0, -2)[keep][None]
            return output
        pooled = torch.cat([p.reshape(-1, p.shape[-1]) for p in given])[keep]
        if isinstance(given, Tensor):
            output.pooler_output = pooled[None] if given.ndim == 3 else pooled
        else:
            output.pooler_output = [pooled]
        for name in output:
            if "deepstack" in name and output[name] is not None:
                levels = output[name]
                output[name] = [
                    r[keep] if isinstance(r, Tensor) else [torch.cat(list(r))[keep]] for r in levels
                ]
        return output

    own["get_image_features"] = fewer
    try:
        yield
    finally:
        del own["get_image_features"]


@torch.no_grad()
def reference(
    model: Any, given: dict[str, Tensor], keep: Tensor, positions: Tensor | None, steps: int
) -> Tensor:
    """Logits [steps, V] of the next tokens of one prompt that holds the visual tokens `keep` only, without a cache.

    Args:
        model: the model, not pruned.
        given: one prompt without padding.
        keep: numbers of the visual tokens that stay.
        positions: of the tokens that are left [A, 1, n], or None for what the model itself counts.
        steps: greedy steps.
    """
    vlm = find_parts(model)[0]
    visual = (given["input_ids"][0] == IMAGE).nonzero().squeeze(1)
    stays = torch.ones(given["input_ids"].shape[1], dtype=torch.bool)
    stays[visual] = False
    stays[visual[keep]] = True
    ids = given["input_ids"][:, stays]
    pixels = {
        n: v for n, v in given.items() if n not in ("input_ids", "attention_mask") and "type_ids" not in n
    }
    logits, prompt = [], ids.shape[1]
    with only_rows(vlm, keep):
        for _ in range(steps):
            call = with_types(
                model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}, prompt
            )
            if positions is not None:
                call["position_ids"] = positions
            logits.append(model(**call, use_cache=False).logits[0, -1])
            ids = torch.cat([ids, logits[-1].argmax().view(1, 1)], dim=1)
            if positions is not None:
                positions = torch.cat([positions, positions[..., -1:] + 1], dim=-1)
    return torch.stack(logits)


def split_rows(model: Any, given: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The prompts of a batch with one image each, alone and without padding."""
    count = len(given["input_ids"])
    pixels = {
        n: v for n, v in given.items() if n not in ("input_ids", "attention_mask") and "type_ids" not in n
    }
    alone = []
    for b in range(count):
        ids = given["input_ids"][b, given["attention_mask"][b].bool()][None]
        own = {}
        for name, value in pixels.items():
            if name == "pixel_values" and "image_grid_thw" in pixels:
                parts = value.split(pixels["image_grid_thw"].prod(dim=1).tolist())
                own[name] = parts[b]
            elif name == "pixel_values" and "target_sizes" in pixels:
                own[name] = value.chunk(count, dim=-1)[b]
            elif len(value) == count:
                own[name] = value[b : b + 1]
            else:
                own[name] = value[:, b : b + 1]
        alone.append(with_types(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **own}))
    return alone
