"""The models that ship with the package: their names, folders, and how their prompts are chosen."""

import json
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

from zoo_exp.errors import MissingFileError, UnknownNameError

ROOM = Path(__file__).parent
FOLDERS: dict[str, str] = {
    "embedded": "weights_world2",
    "embedded_next": "weights_next",
    "embedded_qwen": "weights_qwen",
    "embedded_world1": "weights",
}
"""Name of a shipped model -> folder of its weights; the first three are models of world 2."""
PROMPTS_FLAG = "zoo_exp_prompts"
"""Field of a checkpoint's config.json: `embedded` asks for bare questions and options."""
WORLD_FLAG = "zoo_exp_world"
"""Field of a checkpoint's config.json: the version of the world that it was trained on."""


def is_shipped(path: str) -> bool:
    """Whether `model.path` names a model of the package."""
    return path in FOLDERS


def own_world(name: str) -> str:
    """What a user should know who shows a shipped model an image of another kind.

    Args:
        name: of the model.
    """
    return f"{name} knows its own world only; a photograph needs model=NAME (python -m zoo_exp list models)"


def shipped_folder(name: str) -> Path:
    """The folder of a shipped model, for `from_pretrained`.

    Raises:
        UnknownNameError: no shipped model of that name.
        MissingFileError: the package came without its weights.
    """
    if name not in FOLDERS:
        raise UnknownNameError("embedded model", name, FOLDERS)
    folder = ROOM / FOLDERS[name]
    if not (folder / "model.safetensors").is_file():
        raise MissingFileError(
            f"the weights of {name} are missing ({folder / 'model.safetensors'}): reinstall the package, or train "
            f"them: python -m zoo_exp embedded train model={name}"
        )
    return folder


def weights_digest(name: str) -> str:
    """The first 12 hexadecimal digits of the SHA-256 of a shipped model's weights.

    Raises:
        UnknownNameError: no shipped model of that name.
        MissingFileError: the package came without its weights.
    """
    return sha256((shipped_folder(name) / "model.safetensors").read_bytes()).hexdigest()[:12]


def prompts_of(path: str) -> str | None:
    """Which prompts a model asks for: a shipped model's name or a checkpoint's own flag; None has no wish."""
    if is_shipped(path):
        return "embedded"
    config = Path(path).expanduser() / "config.json"
    return _flag(config, config.stat().st_mtime_ns) if config.is_file() else None


@lru_cache(maxsize=64)
def _flag(config: Path, modified_ns: int) -> str | None:
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # loading the model says what is wrong with the file
    flag = found.get(PROMPTS_FLAG) if isinstance(found, dict) else None
    return flag if flag == "embedded" else None
