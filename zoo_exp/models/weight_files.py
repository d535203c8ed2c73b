"""Files of a checkpoint, checked before anything is loaded: weights, settings, quantization."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError

MAX_LAYERS = 4096
"""Layers of a part of a model; `transformers` makes a module for each before it looks at the weights."""
ADAPTER = "adapter_config.json"
"""Settings of a LoRA adapter, which `transformers` reads if peft is installed and ignores otherwise."""


POINTER = b"version https://git-lfs.github.com/spec/"
"""Start of a file that git-LFS has not replaced by its content."""
TOKENIZERS = (
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
    "vocab.txt",
    "vocab.json",
)
"""Files that `transformers` can make a tokenizer of where there is no tokenizer.json, some with further packages."""


def check_snapshot(path: str, name: str) -> None:
    """Refuse a local folder that is no checkpoint: an adapter alone, or git-LFS pointers; hub ids pass.

    Raises:
        InvalidValueError: an adapter without its model.
        MissingFileError: no config.json, or a file that is a pointer.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    for file in sorted(folder.iterdir()):
        if file.is_file():
            with file.open("rb") as content:
                pointer = content.read(len(POINTER)) == POINTER
            if pointer:
                raise MissingFileError(
                    f"model '{name}': {file} is a git-LFS pointer, not the file itself: run `git lfs pull` in "
                    f"{folder}, or download the checkpoint with `hf download`"
                )
    if (folder / "config.json").is_file():
        return
    if (folder / ADAPTER).is_file():
        raise InvalidValueError(
            f"model '{name}': {folder} is a LoRA or other PEFT adapter{_base(folder / ADAPTER)}, not a whole model. "
            "Merge it into its model (PeftModel.from_pretrained(...).merge_and_unload().save_pretrained(DIR), and the "
            "processor's save_pretrained(DIR)), then model.path=DIR"
        )
    raise MissingFileError(f"model '{name}': {folder} has no config.json: give the folder of a checkpoint")


def _base(file: Path) -> str:
    """The model that an adapter belongs to, in words; empty where its settings do not say."""
    try:
        base = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
    return f" of {base:.100}" if isinstance(base, str) and base.isprintable() else ""


def check_processor_files(path: str, name: str) -> None:
    """Refuse a local folder without the files of a tokenizer or of an image processor; hub ids pass.

    Raises:
        MissingFileError: what is missing.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    has = {file.name for file in folder.iterdir()}
    if "tokenizer.json" not in has:
        if not has.intersection(TOKENIZERS):
            raise _missing(name, folder, "tokenizer.json")
        if "vocab.json" in has and "merges.txt" not in has:
            raise _missing(name, folder, "merges.txt (nor tokenizer.json)")
    if "preprocessor_config.json" not in has and "image_processor" not in _keys(
        folder / "processor_config.json"
    ):
        raise _missing(name, folder, "preprocessor_config.json")


def _missing(name: str, folder: Path, file: str) -> MissingFileError:
    return MissingFileError(
        f"model '{name}': {folder} has no {file}: copy it from the model's page on the hub into the folder"
    )


def _keys(file: Path) -> Iterable[str]:
    """The keys of a file of settings; empty where it is missing or damaged."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ()
    return content if isinstance(content, dict) else ()


def check_weight_files(path: str, name: str) -> None:
    """Refuse a local folder whose safetensors are missing, cut short or damaged; hub ids pass.

    Raises:
        InvalidValueError: there are only pickled weights.
        MissingFileError: anything else that is wrong, with the file's name.
    """
    folder = Path(path)
    if not folder.is_dir():
        return
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.is_file():
        shards = [single]
    elif index.is_file():
        try:
            shards = [
                folder / part for part in sorted(set(json.loads(index.read_text())["weight_map"].values()))
            ]
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise MissingFileError(f"model '{name}': {index} is damaged: get the checkpoint again") from error
    else:
        pickled = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt"))
        if pickled:
            raise InvalidValueError(
                f"model '{name}': {folder} has only pickled weights ({', '.join(pickled)}), which are refused because "
                "opening them runs code: convert them to safetensors (save_pretrained of the model)"
            )
        raise MissingFileError(f"model '{name}': {folder} has no model.safetensors")
    for shard in shards:
        if not shard.is_file():
            raise MissingFileError(f"model '{name}': {shard} is missing: get the checkpoint again")
        try:
            with safe_open(shard, framework="pt") as handle:
                handle.keys()
        except (SafetensorError, OSError) as error:
            raise MissingFileError(
                f"model '{name}': {shard} is damaged or cut short ({error}): get the checkpoint again"
            ) from error


def check_settings(path: str, name: str) -> None:
    """Refuse a local folder with settings that are no JSON object, or that would be ignored; hub ids pass.

    `transformers` takes its defaults where generation_config.json cannot be read, and says nothing.

    Raises:
        MissingFileError: a damaged file.
        InvalidValueError: an adapter that is not merged, a tokenizer class that is no name.
    """
    folder = Path(path)
    files = sorted(folder.glob("*.json")) if folder.is_dir() else []
    for file in files:
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            reason = (
                "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
            )
            raise MissingFileError(
                f"model '{name}': {file} cannot be read ({reason}): get the checkpoint again"
            ) from error
        if not isinstance(content, dict) and file.name.endswith("config.json"):
            raise MissingFileError(f"model '{name}': {file} is no JSON object: get the checkpoint again")
        if file.name == ADAPTER:
            raise InvalidValueError(
                f"model '{name}': {folder} has an adapter ({ADAPTER}) that is not part of the weights: merge it with "
                "peft (merge_and_unload) and save the model, or remove the file"
            )
        kind = content.get("tokenizer_class") if file.name == "tokenizer_config.json" else None
        if kind is not None and not (isinstance(kind, str) and kind.isidentifier()):
            raise InvalidValueError(
                f"model '{name}': {file} has the tokenizer_class {kind!r:.80}, which is no name of a class"
            )


def check_config(raw: Mapping[str, Any], name: str) -> None:
    """Refuse a configuration that would be ignored in part, or that nothing could build.

    Args:
        raw: the content of config.json.
        name: of the model, for the error.

    Raises:
        UnknownNameError: a quantization method that the installed `transformers` does not know, and would skip.
        InvalidValueError: more than `MAX_LAYERS` layers.
    """
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    for key, value in _settings(raw):
        if key == "quantization_config" and value is not None:
            method = value.get("quant_method") if isinstance(value, dict) else value
            if isinstance(value, dict) and (value.get("load_in_4bit") or value.get("load_in_8bit")):
                method = method or "bitsandbytes"
            known = {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}
            if not isinstance(method, str) or method not in known:
                raise UnknownNameError("quantization method", str(method)[:80], known, f"Model '{name}'.")
        if key.endswith(("layers", "depth")) and isinstance(value, int) and value > MAX_LAYERS:
            raise InvalidValueError(
                f"model '{name}': its config.json has {key} {value}, but at most {MAX_LAYERS} are built"
            )


def _settings(raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values of a configuration and of its parts."""
    left = [raw]
    while left:
        for key, value in left.pop().items():
            yield str(key), value
            if isinstance(value, dict) and key != "quantization_config":
                left.append(value)
