"""`load_model`: a checkpoint, the embedded model, or an architecture with random weights, ready for pruning."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from zoo_exp import presets
from zoo_exp.embedded.shipped import is_shipped, shipped_folder
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.files import log
from zoo_exp.models.base import VLMAdapter
from zoo_exp.models.chat import check_template
from zoo_exp.models.clip_heads import ClipHeads
from zoo_exp.models.config_file import first_line, load_config, reading, unreadable
from zoo_exp.models.families import (
    adapter_class,
    adapter_for,
    model_class_name,
)
from zoo_exp.models.generic_support import image_token
from zoo_exp.models.llava_protocol import check_protocol, use_protocol
from zoo_exp.models.pixels import bound_pixels
from zoo_exp.models.processor_gaps import fill_gaps
from zoo_exp.models.weight_files import (
    check_processor_files,
    check_settings,
    check_snapshot,
    check_weight_files,
)
from zoo_exp.threads import renew_pool_after_fork

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
ATTENTION = ("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its processor and adapter.

    Attributes:
        model: the Hugging Face model, in evaluation mode.
        processor: its processor; None where random weights were asked for and no processor is at hand.
        adapter: the family's adapter.
        name: what was asked for.
        n_visual: visual tokens of an image, or None where it depends on the image.
        protocol: what prompts and images follow: `hf` or `llava`.
    """

    model: Any
    processor: Any
    adapter: VLMAdapter
    name: str
    n_visual: int | None
    protocol: str = "hf"


def load_model(
    name_or_path: str | Path,
    *,
    dtype: str | None = None,
    attention: str | None = None,
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    weights: str | None = None,
    layers: int | None = None,
    decoder: bool = True,
    trust_remote_code: bool = False,
    seed: int = 0,
    clip: str | Path | None = None,
    min_pixels: int | None = None,
    max_pixels: int | None = None,
    protocol: str | None = None,
    progress: bool = False,
) -> LoadedModel:
    """Load a vision-language model that can be pruned.

    Args:
        name_or_path: a folder with a checkpoint, a hub id, `embedded`, or a name of `configs/model/` such as
            `llava15_7b`, whose settings hold for every argument that is not given.
        dtype: `auto` (as saved), `float32`, `float16` or `bfloat16`; default `auto`.
        attention: attention backend of `transformers`: `sdpa` (default), `eager`, `flash_attention_2`.
        device: where the model goes; not with `device_map`.
        device_map: as in `from_pretrained`, for instance `auto` or `{"": "cpu"}`; needs the package accelerate.
        revision: commit or tag on the hub.
        weights: `pretrained` (default), or `random` for the architecture alone (timing and tests).
        layers: keep only the first decoder layers.
        decoder: False loads one decoder layer only and keeps the configuration as it is: for engines that read no more
            than the vision encoder, the projector and the embeddings.
        trust_remote_code: run code that comes with the checkpoint; refused otherwise.
        seed: of random weights.
        clip: a folder or hub id with the full CLIP that the vision encoder was taken from, for `cdpruner` with
            `relevance=clip`.
        min_pixels: an image with fewer pixels is enlarged (Qwen2.5-VL); default: as the processor's files say.
        max_pixels: an image with more pixels is reduced.
        protocol: `hf` (default), the checkpoint's processor and chat template; or `llava`, those of LLaVA's own code
            (`zoo_exp.models.llava_protocol`), which the names of `configs/model/` set for LLaVA-1.5 and LLaVA-NeXT.
        progress: show the progress bars of `transformers` and `huggingface_hub` on standard error.

    Raises:
        UnknownNameError: a model type without an adapter, an unknown dtype.
        MissingFileError: no such checkpoint, or a damaged one.
        InvalidValueError: pickled weights, remote code, layers out of range.
    """
    name = str(name_or_path)
    preset = _preset(name)
    dtype = dtype or preset.get("dtype", "auto")
    attention = attention or preset.get("attention", "sdpa")
    weights = weights or preset.get("weights", "pretrained")
    revision = revision or preset.get("revision")
    clip = clip or preset.get("clip")
    protocol = protocol or preset.get("protocol", "hf")
    layers = preset.get("layers") if layers is None else layers
    pixels = (
        preset.get("min_pixels") if min_pixels is None else min_pixels,
        preset.get("max_pixels") if max_pixels is None else max_pixels,
    )
    if device is None and device_map is None:
        device_map = preset.get("device_map")
    if dtype not in DTYPES:
        raise UnknownNameError("dtype", dtype, DTYPES)
    if weights not in ("pretrained", "random"):
        raise UnknownNameError("weights", weights, ("pretrained", "random"))
    if attention not in ATTENTION:
        raise UnknownNameError("attention backend", attention, ATTENTION)
    if device is not None and device_map is not None:
        raise InvalidValueError(f"device {device} and device_map {device_map}: give one of them")
    if device_map is not None and find_spec("accelerate") is None:
        raise InvalidValueError(
            f"device_map {device_map} needs the package accelerate: pip install accelerate, or set device_map to null"
        )
    path = str(preset.get("path", name))
    shipped = is_shipped(path)
    if shipped:
        path = str(shipped_folder(path))
    check_snapshot(path, name)
    progress = progress and not shipped
    with _quiet(progress):
        hub: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
        config = load_config(path, name, weights, hub)
        check_protocol(protocol, config.model_type, name)
        check_settings(path, name)
        text = {
            name: getattr(config.get_text_config(), name, None)
            for name in ("num_hidden_layers", "layer_types")
        }
        if layers is not None or not decoder:
            keep_layers(config, layers if decoder and layers is not None else 1)
        options: dict[str, Any] = {"dtype": DTYPES[dtype], "attn_implementation": attention}
        if weights == "random":
            with reading(name, "no model can be made from its config.json"):
                model = _random(config, options, seed)
        else:
            check_weight_files(path, name)
            check_processor_files(path, name)
            model = _pretrained(path, name, config, {**options, **hub, "device_map": device_map})
        if device is not None:
            model = _move(model, device)
        processor = processor_of(path, name, config, hub, needed=weights == "pretrained")
        if processor is not None:
            bound_pixels(processor, name, *pixels)
    model.eval()
    if not decoder:
        for setting, value in text.items():
            if value is not None:
                setattr(model.config.get_text_config(), setting, value)
    with reading(name, "its config.json does not describe a model that can be pruned"):
        adapter = adapter_for(model, processor)
    if processor is not None and not shipped:
        check_template(processor, name)
    if processor is not None:
        said = fill_gaps(processor, model.config, template=protocol == "hf")
        if said:
            log.warning(f"model '{name}': its processor's files are incomplete; set: {', '.join(said)}")
        use_protocol(processor, model.config, name, protocol)
    if clip is not None:
        with _quiet(progress):
            adapter.clip = ClipHeads.load(str(clip))
        adapter.clip.check(config.vision_config, str(clip))
    return LoadedModel(model, processor, adapter, name, adapter.n_visual, protocol)


def keep_layers(config: Any, layers: int) -> None:
    """Keep only the first decoder layers.

    Args:
        config: of the model; changed in place.
        layers: how many.

    Raises:
        InvalidValueError: the decoder has fewer.
    """
    text = config.text_config
    if not 1 <= layers <= text.num_hidden_layers:
        raise InvalidValueError(
            f"layers {layers}: the decoder has {text.num_hidden_layers}, give 1 to that many"
        )
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:layers]


def _preset(name: str) -> dict[str, Any]:
    """The settings of a name of `configs/model/`; a folder of that name, or any other name, has none."""
    return {} if Path(name).is_dir() and not is_shipped(name) else presets.find("model", name) or {}


def _pretrained(path: str, name: str, config: Any, options: dict[str, Any]) -> Any:
    import transformers
    from safetensors import SafetensorError

    model_class = getattr(transformers, model_class_name(config.model_type))
    options = {**options, "use_safetensors": True, "output_loading_info": True}
    renew_pool_after_fork()  # transformers loads in threads
    try:
        model, info = model_class.from_pretrained(path, config=config, **options)
    except (SafetensorError, RuntimeError) as error:
        if "INTERNAL ASSERT" in str(error):
            raise  # a fault of torch, which says nothing about the file
        raise MissingFileError(
            f"model '{name}': its weights are damaged or do not fit its config.json ({first_line(error)}): get "
            "the checkpoint again"
        ) from error
    except OSError as error:
        raise MissingFileError(
            f"model '{name}': its safetensors cannot be loaded ({first_line(error)}); pickled weights (.bin) are "
            "refused because opening them runs code"
        ) from error
    except ImportError as error:
        quantized = getattr(config, "quantization_config", None)
        if quantized is not None:
            raise InvalidValueError(
                f"model '{name}' has quantized weights, which need a package that is not here ({first_line(error)})"
            ) from error
        raise InvalidValueError(
            f"attention backend {options['attn_implementation']} cannot be used here ({first_line(error)}): "
            "install it, or take sdpa"
        ) from error
    except Exception as error:  # a model that is made from a configuration raises whatever its parts raise
        raise unreadable(name, "it cannot be made from its config.json and weights", error) from error
    missing = sorted(info["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise MissingFileError(f"model '{name}': the checkpoint lacks {missing[0]}{more}: get it again")
    return model


def _move(model: Any, device: str | torch.device) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidValueError(
            f"device {device}: the model cannot go there ({first_line(error)})"
        ) from error


def _random(config: Any, options: dict[str, Any], seed: int) -> Any:
    import transformers

    model_class = getattr(transformers, model_class_name(config.model_type))
    dtype = options.pop("dtype")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model_class._from_config(config, dtype=torch.float32 if dtype == "auto" else dtype, **options)


def processor_of(path: str, name: str, config: Any, hub: dict[str, Any], *, needed: bool) -> Any:
    """The processor of a checkpoint, as its files say; None if it is not `needed` and cannot be read.

    Args:
        path: folder or hub id.
        name: of the model, for messages.
        config: its configuration.
        hub: options of `from_pretrained`.
        needed: whether to raise if it cannot be read.

    Raises:
        MissingFileError: its files are missing, damaged or need a package; its tokenizer is not the model's.
    """
    processor_class = adapter_class(config.model_type).processor_class()
    if not needed and not Path(path).is_dir():
        hub = {**hub, "local_files_only": True}
    try:
        processor = processor_class.from_pretrained(path, **hub)
    except Exception as error:  # the files of a processor are settings of many classes
        if not needed:
            return None
        folder = Path(path)
        if folder.is_dir() and not (folder / "tokenizer.json").is_file() and "token" in str(error):
            raise MissingFileError(
                f"model '{name}': {folder} has no tokenizer.json, and none can be made of its other files "
                f"({first_line(error)[:150]}): copy tokenizer.json from the model's page on the hub into the folder, "
                "or pip install sentencepiece protobuf"
            ) from error
        if "torchvision" in str(error).lower() and find_spec("torchvision") is None:
            raise MissingFileError(
                f"model '{name}': its processor cannot be loaded: the installed transformers reads its images with "
                "torchvision, which is not installed: pip install torchvision, in the version for your torch"
            ) from error
        raise unreadable(name, "its processor cannot be loaded", error) from error
    written = getattr(processor, "image_token_id", None)
    if written is not None and written != image_token(
        config
    ):  # a tokenizer without files is made up, in silence
        raise MissingFileError(
            f"model '{name}': its tokenizer writes {written} for {processor.image_token}, but the "
            f"model reads {image_token(config)}: files of the tokenizer are missing or from elsewhere; get them again"
        )
    processor.tokenizer.padding_side = "left"
    return processor


@contextmanager
def _quiet(progress: bool = False) -> Iterator[None]:
    """No notes about fallbacks that change nothing (torchvision is not needed), and progress bars only if asked for."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.CRITICAL)
    if not progress:
        hf_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hf_logging.set_verbosity(level)
        if bars and not progress:
            hf_logging.enable_progress_bar()
