"""Slim checkpoints: the published architecture with small widths, random weights and a tokenizer made here.

The number of visual tokens, the tiles, the depth of the decoder, the settings of the image processor and the special
tokens are the published ones; widths and vocabulary are small. A response ends after a few tokens by construction:
channel 0 of an embedding is passed through all layers, and the head turns it into the end-of-sequence token.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.families import architecture, model_class_name
from zoo_exp.models.processor_gaps import CHAT_ML, VICUNA

WIDTH, HEADS = 64, 4
_MEAN, _STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_CLIP_IMAGES = {
    "do_resize": True,
    "size": {"shortest_edge": 336},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "do_convert_rgb": True,
    "image_mean": _MEAN,
    "image_std": _STD,
}
_LLAVA_PROCESSOR = {
    "image_token": "<image>",
    "num_additional_image_tokens": 1,
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
}


@dataclass(frozen=True)
class Published:
    """What a slim checkpoint takes from the published one.

    Attributes:
        hub_id: names the architecture.
        special: special tokens in the order of their ids.
        bos, eos, pad: of these, the ones with a role; `bos` None where prompts have none.
        last: the last token of every prompt; a response never ends right behind it.
        template: chat template with the published output.
        images: settings of the image processor.
        processor: settings of the processor.
        generation: settings of generation besides token ids.
        widths: of the language model and of the vision encoder.
    """

    hub_id: str
    special: tuple[str, ...]
    bos: str | None
    eos: str
    pad: str
    last: str
    template: str
    images: dict[str, Any]
    processor: dict[str, Any]
    generation: dict[str, Any]
    widths: tuple[int, int] = (WIDTH, WIDTH // 2)


_LLAMA_TOKENS = ("<unk>", "<s>", "</s>", "<image>", "<pad>")
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_LLAVA = Published(
    *("llava-hf/llava-1.5-7b-hf", _LLAMA_TOKENS, "<s>", "</s>", "<pad>", ":", VICUNA),
    {**_CLIP_IMAGES, "image_processor_type": "CLIPImageProcessor", "processor_class": "LlavaProcessor"},
    {**_LLAVA_PROCESSOR, "processor_class": "LlavaProcessor"},
    {},
)
PUBLISHED = {
    "llava15_7b": _LLAVA,
    "llava15_13b": Published(**{**vars(_LLAVA), "hub_id": "llava-hf/llava-1.5-13b-hf"}),
    "llava_next_7b": Published(
        *("llava-hf/llava-v1.6-vicuna-7b-hf", _LLAMA_TOKENS, "<s>", "</s>", "<pad>", ":", VICUNA),
        {
            **_CLIP_IMAGES,
            "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
            "image_grid_pinpoints": _PINPOINTS,
            "do_pad": True,
        },
        {**_LLAVA_PROCESSOR, "processor_class": "LlavaNextProcessor"},
        {},
        (128, 128),  # the protocol's projector has rank 128
    ),
    "qwen25_vl_7b": Published(
        "Qwen/Qwen2.5-VL-7B-Instruct",
        (
            *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"),
            *("<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"),
        ),
        *(None, "<|im_end|>", "<|endoftext|>", "\n", CHAT_ML),
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": _MEAN,
            "image_std": _STD,
        },
        {},
        {"do_sample": True, "temperature": 1e-6, "repetition_penalty": 1.05},
    ),
}
"""Name in `configs/model/` -> what its slim checkpoint is made of."""
_IDS = {
    "image_token_id": ("<image>", "<|image_pad|>"),
    "video_token_id": ("<|video_pad|>",),
    "vision_start_token_id": ("<|vision_start|>",),
    "vision_end_token_id": ("<|vision_end|>",),
}


def has_weights(folder: Path) -> bool:
    """Whether a checkpoint has files of weights, or settings alone."""
    return any(any(folder.glob(pattern)) for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth"))


def make(name: str, folder: Path, seed: int = 0, *, weights: bool = True, source: Path | None = None) -> Path:
    """Write the slim checkpoint of a model of `configs/model/`; returns its folder.

    Without weights it has its settings alone, for `load_model(folder, weights="random")`.

    Args:
        name: of the model.
        folder: takes the checkpoint.
        seed: of the weights.
        weights: whether to write weights.
        source: published files without weights; tokenizer, processor, templates and generation settings are copied
            from it, and its configuration is made slim. None makes them up.

    Raises:
        InvalidValueError: the source is not a complete set of files of this model.
    """
    import transformers

    published = PUBLISHED[name]
    folder.mkdir(parents=True, exist_ok=True)
    generation = dict(published.generation)
    if source is None:
        words = tokenizer(published)
        config = slim_config(published, words, architecture(published.hub_id))
        words.save_pretrained(folder)
        _write(folder / "preprocessor_config.json", published.images)
        if published.processor:
            _write(folder / "processor_config.json", published.processor)
        _write(folder / "chat_template.json", {"chat_template": published.template})
    else:
        words, config = _copied(published, source, folder)
        known = transformers.GenerationConfig.from_pretrained(source).to_diff_dict()
        generation = {key: value for key, value in known.items() if not key.endswith("token_id")}
    if not weights:
        config.save_pretrained(folder)
        return folder
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, model_class_name(config.model_type))(config)
        _draw(model, words, published)
    eos, pad = words.convert_tokens_to_ids([published.eos, published.pad])
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=words.bos_token_id, eos_token_id=eos, pad_token_id=pad, **generation
    )
    model.save_pretrained(folder)
    return folder


def _copied(published: Published, source: Path, folder: Path) -> tuple[Any, Any]:
    """Copy published settings; returns their tokenizer and their configuration made slim."""
    import transformers

    for path in source.iterdir():
        if path.suffix in (".json", ".jinja", ".txt", ".model") and not path.name.endswith(".index.json"):
            shutil.copyfile(path, folder / path.name)
    try:
        words = transformers.AutoTokenizer.from_pretrained(source)
        config = transformers.AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise InvalidValueError(f"model.path={source}: {' '.join(str(error).split())[:200]}") from error
    wanted = architecture(published.hub_id).model_type
    if config.model_type != wanted or words.convert_tokens_to_ids(published.eos) == words.unk_token_id:
        raise InvalidValueError(
            f"model.path={source}: the files are of {config.model_type}, the experiment's model is {wanted}"
        )
    return words, slim_config(published, words, config)


def tokenizer(published: Published) -> Any:
    """Byte-level pairs that can write every text, with the published special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = byte_level, decoders.ByteLevel()
    text = ["Answer the question using a single word or phrase. What is it? USER ASSISTANT system assistant"]
    special = list(published.special)
    made.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=special,
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        ),
    )
    if published.bos is not None:
        made.post_processor = processors.TemplateProcessing(
            single=f"{published.bos} $A", special_tokens=[(published.bos, made.token_to_id(published.bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=published.bos,
        eos_token=published.eos,
        pad_token=published.pad,
        additional_special_tokens=special,
        padding_side="left",
    )


def slim_config(published: Published, words: Any, config: Any) -> Any:
    """A published configuration with small widths, changed in place; grid, tiles and depth stay."""
    text, vision = config.text_config, config.vision_config
    width, vision_width = published.widths
    text.hidden_size, text.intermediate_size = width, 2 * width
    text.num_attention_heads = text.num_key_value_heads = HEADS
    text.head_dim = width // HEADS
    text.vocab_size = max(len(words), 1 + max(words.convert_tokens_to_ids(list(published.special))))
    text.bos_token_id, text.eos_token_id = words.bos_token_id, words.eos_token_id
    text.pad_token_id = words.pad_token_id
    vision.hidden_size, vision.intermediate_size = vision_width, 2 * vision_width
    if hasattr(vision, "num_heads"):
        vision.num_heads, vision.out_hidden_size = 4, width
        text.rope_parameters = {**text.rope_parameters, "mrope_section": [2, 3, 3]}
    else:
        vision.num_attention_heads, vision.projection_dim = 4, 32
    for field, tokens in _IDS.items():
        known = [token for token in tokens if token in published.special]
        if known and hasattr(config, field):
            setattr(config, field, words.convert_tokens_to_ids(known[0]))
    return config


@torch.no_grad()
def _draw(model: Any, words: Any, published: Published) -> None:
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(0, 0.05)
    language = model.model.language_model
    embeddings = language.embed_tokens.weight
    last = words(f"x{published.last}", add_special_tokens=False)["input_ids"][-1]
    embeddings[:, 0] = 4.0
    embeddings[::3, 0] = embeddings[last, 0] = 0.0
    for layer in language.layers:  # nothing else writes to channel 0
        layer.self_attn.o_proj.weight[0] = layer.mlp.down_proj.weight[0] = 0.0
    head = model.lm_head.weight
    head[words.convert_tokens_to_ids(list(published.special))] = 0.0
    head[words.convert_tokens_to_ids(published.eos), 0] = 30.0


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
