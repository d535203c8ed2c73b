"""Weight files of a checkpoint folder, checked before anything is loaded."""

import json
from pathlib import Path

from safetensors import SafetensorError, safe_open

from zoo_exp.errors import InvalidValueError, MissingFileError


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
