"""config.json of a checkpoint: read, checked and made into a configuration; its problems in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo_exp import presets
from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError
from zoo_exp.models.config_values import check_values
from zoo_exp.models.families import adapter_class, architecture, known_architectures
from zoo_exp.models.weight_files import check_config, check_snapshot


@contextmanager
def reading(name: str, what: str) -> Iterator[None]:
    """Turn whatever `transformers` raises for a malformed checkpoint into one line."""
    try:
        yield
    except ZooExpError:
        raise
    except Exception as error:
        raise unreadable(name, what, error) from error


def unreadable(name: str, what: str, error: Exception) -> MissingFileError:
    """What a library raised for a file of a checkpoint, in one line."""
    kind = "" if isinstance(error, (OSError, ValueError, RuntimeError)) else f"{type(error).__name__}: "
    return MissingFileError(f"model '{name}': {what}: {kind}{first_line(error)}. Get the checkpoint again")


def first_line(error: BaseException) -> str:
    """The first line of a message without its full stop, or the kind of error."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def read_config(path: str, name: str, revision: str | None = None) -> dict[str, Any]:
    """The config.json of a folder or a hub id.

    Raises:
        MissingFileError: it cannot be read.
    """
    from transformers.configuration_utils import PretrainedConfig

    check_snapshot(path, name)
    try:
        raw, _ = PretrainedConfig.get_config_dict(path, revision=revision)
    except Exception as error:  # a settings file that is no JSON object, and everything that a network can do
        raise MissingFileError(
            f"model '{name}': no checkpoint of that name can be read ({first_line(error)}). Give a folder, a hub id "
            f"that can be downloaded or is cached, or one of {', '.join(presets.names('model'))}"
        ) from error
    if not isinstance(raw, dict):
        raise MissingFileError(f"model '{name}': its config.json is no JSON object: get the checkpoint again")
    found: dict[str, Any] = raw
    return found


def load_config(path: str, name: str, weights: str, hub: dict[str, Any]) -> Any:
    """The configuration of a checkpoint, or of a known architecture for random weights.

    Args:
        path: a folder, a hub id or, for random weights, the name of a known architecture.
        name: of the model, for errors.
        weights: `pretrained` or `random`.
        hub: `revision` and `trust_remote_code` of `from_pretrained`.

    Raises:
        MissingFileError: config.json cannot be read.
        InvalidValueError: it brings code, or values that nothing can be built of.
    """
    from transformers import AutoConfig

    if weights == "random" and not Path(path).is_dir() and path in known_architectures():
        return architecture(path)
    raw = read_config(path, name, hub["revision"])
    if "auto_map" in raw and not hub["trust_remote_code"]:
        raise InvalidValueError(
            f"model '{name}' brings its own code (auto_map in config.json): it is not run unless you ask for it "
            "with trust_remote_code=True"
        )
    adapter_class(str(raw.get("model_type")))
    check_config(raw, name)
    check_values(raw, name)
    with reading(name, "its config.json is no configuration of a model"):
        return AutoConfig.from_pretrained(path, **hub)
