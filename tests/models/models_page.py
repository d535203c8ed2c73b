"""Writes docs/models.md from what tiny random models of every type do: python tests/models/models_page.py."""

import sys
import warnings
from pathlib import Path

import torch
import transformers
from test_generic_families import TYPES, EveryOther, answer, error, independent_rows, original_positions
from tiny_changes import CANNOT_BE_BUILT, ENCODES_MORE
from tiny_configs import IMAGE
from tiny_families import reference, split_rows, tiny_family, tiny_prompt
from tiny_videos import IN_IMAGE_TOKENS, NO_VIDEOS, cut_reference, stays, video_prompt
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

import zoo_exp
from zoo_exp.core.normed import NormedMLP
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import FAMILIES, adapter_for
from zoo_exp.models.generic_support import REFUSED, find_parts
from zoo_exp.selectors.layer.fastv import FastV

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
HEAD = """# Supported models

After this page you know whether your model can be pruned, by which selectors, and how that was tested.

`zoo_exp.pruned`, `load_model` and `model=hub model.path=ORG/NAME` take every vision-language model of `transformers`
that puts one placeholder per visual token into the prompt. Three families have an adapter of their own. All others
share one, which finds what it needs by inspection and proves it by value.

## What is tested

| family | images | video | batch | int8 | compile | PEFT | vLLM |
| --- | --- | --- | --- | --- | --- | --- | --- |
| LLaVA-1.5 (`llava`) | tested | no | tested | tested | tested | tested | tested |
| LLaVA-NeXT (`llava_next`) | tested | no | tested | tested | not tested | not tested | tested |
| Qwen2.5-VL (`qwen2_5_vl`) | tested | tested | tested | tested | not tested | not tested | tested |
| Qwen2-VL (`qwen2_vl`) | tested | tested | tested | not tested | not tested | not tested | no |
| Qwen3-VL (`qwen3_vl`) | tested | tested | tested | tested | not tested | tested | no |
| InternVL (`internvl`) | tested | frames as images | tested | tested | not tested | not tested | no |
| LLaVA-OneVision (`llava_onevision`) | tested | tested | tested | not tested | not tested | not tested | no |
| LLaVA-NeXT-Video (`llava_next_video`) | tested | tested | tested | not tested | not tested | not tested | no |
| Gemma 3 (`gemma3`) | tested | no | tested | tested | not tested | not tested | no |
| SmolVLM (`smolvlm`) | tested | frames as images | tested | not tested | not tested | not tested | no |
| Idefics3, Mistral 3, PaliGemma | tested | no | tested | not tested | not tested | not tested | no |
| all other types | below | below | below | not tested | not tested | not tested | no |

*int8*: linear layers with weights in int8 and a scale per row, as bitsandbytes keeps them; bitsandbytes itself, and its
4-bit weights, are not tested. *compile*: `generate` of a model given to `torch.compile`; calls that read images inside
compiled code are refused. DataParallel and FSDP (`FullyShardedDataParallel`, `fully_shard`) are refused. *frames as
images*: the processor gives the frames of a video as images, each with a budget of its own; not tested with videos.
*vLLM*: prompts pruned here are answered by vLLM as by transformers; *no*: refused ([Pruned prompts in vLLM](vllm.md)).

Offloading by accelerate (`cpu_offload`, `disk_offload`, `dispatch_model`, `device_map`) is tested on one device with
LLaVA-1.5, LLaVA-NeXT, Qwen2.5-VL and InternVL: same logits, ids, kept tokens and scores as without it, as zoo reads
the projector's offloaded weights in float32. `device_map` over several devices is not tested. `generate` of
transformers 5.23 itself fails where `image_newline` of LLaVA-NeXT is offloaded, and so does Gemma 3 where its vision
encoder or projector is: keep them on a device.

On transformers 5.17, the oldest supported version, the same tests pass for the types that it has (`make test-oldest`).
There, image processors of Idefics2, Idefics3, SmolVLM, Ovis2 and HunYuan-VL need torchvision; beams over a prompt with
several images are refused where transformers mixes up the images (LLaVA, InternVL); and answers of MiniMax-M3 depend on
the other prompts of a batch, pruned or not.

The columns of the next table:

* **keep all**: with every token kept, logits and generated ids are those of the unpruned model, bit for bit.
* **pruned**: largest difference of the logits of 8 greedy steps from a prompt that never held the dropped tokens
  (`contiguous` positions), or in which the others keep their positions (`original`), as a share of the largest logit.
* **batch**: the same between a left-padded batch of two and its prompts one by one.
* **zoo**: how the sensitivity of the projector is known. *closed form*: it is a linear layer, an activation and a
  linear layer, with or without a norm in front. *constant*: it is one linear layer: every token is equally sensitive,
  and zoo keeps what divprune keeps. *automatic*: finite differences as everywhere; `estimator=closed_form` costs one
  backward pass per output dimension. *no*: refused, as no module maps rows to the rows that the language model reads.
* **layers**: whether fastv, dart and sparsevlm run between the decoder layers. What they read is first compared with
  the layer's own output. sparsevlm merges tokens, and is refused where image tokens see each other in both directions.
* **video**: `pixel_values_videos`, alone and next to an image, with the same checks as for images. *as images*: its
  processor gives the frames of a video as images. *not tested*: transformers encodes videos, but no video could be
  made up for the tiny model. `-`: the model takes none, and refuses them with a message.
* **harness**: whether the evaluation, which prunes prompts before it generates, takes the type too.

"""
ENCODERS = """\
The attention of a CLIP or SigLIP encoder is also read where the projector gets one row per patch: `vipllava` (CLIP),
`deepseek_vl` and `paligemma` (SigLIP, which has no CLS token: no visionzip). Elsewhere it is refused with the reason.
"""
CLOSE = 1e-5


def measured(model_type):
    """What one type does, column by column."""
    model = tiny_family(model_type)
    adapter = adapter_for(model)
    given = tiny_prompt(model, (2,), seed=1)
    plain = answer(model, given)
    with zoo_exp.pruned(model, "full") as pruning:
        pruning._engine.force = True
        same = all(torch.equal(a, b) for a, b in zip(answer(model, given), plain, strict=True))
    tokens = adapter.encode(given, frozenset())[0]
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        logits = answer(model, given)[1][0]
    starts = torch.tensor([0, *(t.count for t in tokens)]).cumsum(0)
    keep = torch.cat([s.indices + start for s, start in zip(pruning.selections[0], starts, strict=False)])
    positions = None
    if adapter.positions == "original":
        stays = given["input_ids"][0] != IMAGE
        stays[(~stays).nonzero().squeeze(1)[keep]] = True
        positions = original_positions(model, given)[..., stays]
    off = error(logits, reference(model, given, keep, positions, len(logits)))
    video = _video(model, model_type)
    more = "no" if model_type in ENCODES_MORE else "yes"
    return [
        f"`{model_type}`",
        adapter.positions,
        "identical" if same else "DIFFERS",
        _close(off),
        _batch(model, model_type),
        _zoo(adapter, given),
        _layers(model_type),
        video,
        more,
    ]


def _video(model, model_type):
    if not hasattr(find_parts(model)[0], "get_video_features"):
        processor = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(model_type, ""), None)
        return "as images" if "replace_video_token" in vars(processor or object) else "-"
    if model_type in NO_VIDEOS:
        return "not tested"
    row = ("video",) if model_type in IN_IMAGE_TOKENS else ("image", "video")
    given = video_prompt(model, (row,), seed=1)
    plain = answer(model, given, 4)
    with zoo_exp.pruned(model, "full") as pruning:
        pruning._engine.force = True
        same = all(torch.equal(a, b) for a, b in zip(answer(model, given, 4), plain, strict=True))
    with zoo_exp.pruned(model, EveryOther()) as pruning:
        logits = answer(model, given, 4)[1][0]
    original = adapter_for(model).positions == "original"
    left = stays(given, row, pruning.selections[0])
    off = error(logits, cut_reference(model, given, left, 4, original=original))
    return f"identical, {_close(off)}" if same else "DIFFERS"


def _close(off):
    """A difference, as the tests judge it."""
    return "< 1e-5" if off < CLOSE else f"{off:.0e}"


def _batch(model, model_type):
    given = tiny_prompt(model, (1, 1), seed=2)
    with zoo_exp.pruned(model, EveryOther()):
        together = answer(model, given, 4)[1]
        alone = [answer(model, one, 4)[1][0] for one in split_rows(model, given)]
    rows = independent_rows(model, given)
    return _close(max(error(together[b], alone[b]) for b in rows)) if rows else "depends"


def _zoo(adapter, given):
    try:
        tokens = adapter.encode(given, frozenset({"features", "projector"}))[0][0]
    except InvalidValueError:
        return "no"
    if not isinstance(tokens.mlp, NormedMLP):
        return "automatic"
    return "constant" if tokens.mlp.constant else "closed form"


def _layers(model_type):
    try:
        model = tiny_family(model_type, attention="eager")
    except ValueError:
        model = tiny_family(model_type)
    try:
        with zoo_exp.pruned(model, FastV(k=3), 1), torch.no_grad():
            model(**tiny_prompt(model))
    except InvalidValueError:
        return "refused"
    return "yes"


def row(model_type):
    """One line of the table."""
    return "| " + " | ".join(measured(model_type)) + " |"


def page():
    """The whole page."""
    own = ", ".join(f"`{name}`" for name in FAMILIES.names())
    lines = [f"{HEAD}## Types that the tests prune", ""]
    lines.append(
        f"Tiny random models in float32, transformers {transformers.__version__}. {own} have adapters of their"
    )
    lines.append(
        "own, which also read the attention and the layers of the vision encoder (visionzip, vispruner, hiprune,"
    )
    lines.append("scope) and resize images (resize); their tests are in `tests/models`.")
    lines += ["", *ENCODERS.splitlines()]
    names = ["model type", "positions", "keep all", "pruned", "batch", "zoo", "layers", "video", "harness"]
    lines += ["", "| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    lines += [row(model_type) for model_type in TYPES]
    lines += ["", "## Types without a tiny model", ""]
    lines.append(
        "They may well work: the check of the first prompt tells whether a checkpoint can be pruned."
    )
    lines += ["", "| model type | why there is no tiny model |", "| --- | --- |"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(CANNOT_BE_BUILT.items())]
    lines += ["", "## Types that cannot be pruned", "", "| model type | it is |", "| --- | --- |"]
    lines += [f"| `{name}` | {why} |" for name, why in sorted(REFUSED.items())]
    lines += ["", "Written by `python tests/models/models_page.py`.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    if sys.argv[1:]:
        print(*(row(name) for name in sys.argv[1:]), sep="\n")
    else:
        PAGE.write_text(page())
