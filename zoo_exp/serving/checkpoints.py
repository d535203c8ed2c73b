"""Folders of checkpoints as vLLM reads them."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

VIDEO = "video_preprocessor_config.json"
_QWEN = "qwen2_5_vl"


@contextmanager
def for_vllm(path: str) -> Iterator[str]:
    """A folder that vLLM can load: the given one, or one with links to its files and those that it lacks.

    vLLM loads the whole processor of Qwen2.5-VL. A checkpoint that was saved without torchvision has no settings of
    the video processor; they are derived from those of the image processor.

    Args:
        path: folder or hub id of a checkpoint.
    """
    folder = Path(path)
    settings = _video_settings(folder) if folder.is_dir() else None
    if settings is None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="zoo_exp_vllm_") as made:
        target = Path(made) / folder.resolve().name
        target.mkdir()
        for file in folder.iterdir():
            (target / file.name).symlink_to(file.resolve())
        (target / VIDEO).write_text(json.dumps(settings, indent=1))
        yield str(target)


def _video_settings(folder: Path) -> dict[str, Any] | None:
    """Settings of the video processor that a folder of Qwen2.5-VL lacks; None if it lacks none."""
    config, processor = _read(folder / "config.json"), _read(folder / "processor_config.json")
    if config.get("model_type") != _QWEN or (folder / VIDEO).is_file() or "video_processor" in processor:
        return None
    images = processor.get("image_processor") or _read(folder / "preprocessor_config.json")
    return {
        **{name: value for name, value in images.items() if name != "image_processor_type"},
        "video_processor_type": "Qwen2VLVideoProcessor",
    }


def _read(path: Path) -> dict[str, Any]:
    """A file of settings; empty if there is none, or one that the loader of the model complains about."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
