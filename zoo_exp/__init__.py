"""zoo_exp: choose and judge visual-token pruning for vision-language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo_exp.api import Results, compare, load_run, run
    from zoo_exp.models.loading import load_model
    from zoo_exp.models.pruning import attach, detach, pruned

__version__ = "0.2.0"
__all__ = [
    "Results",
    "__version__",
    "attach",
    "compare",
    "detach",
    "load_model",
    "load_run",
    "pruned",
    "run",
]

_LAZY = {
    "Results": "zoo_exp.api",
    "compare": "zoo_exp.api",
    "load_run": "zoo_exp.api",
    "run": "zoo_exp.api",
    "attach": "zoo_exp.models.pruning",
    "detach": "zoo_exp.models.pruning",
    "load_model": "zoo_exp.models.loading",
    "pruned": "zoo_exp.models.pruning",
}


def __getattr__(name: str) -> Any:
    """Import what is asked for, so that `import zoo_exp` itself costs nothing."""
    if name not in _LAZY:
        raise AttributeError(f"module 'zoo_exp' has no attribute '{name}'")
    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """What the package offers."""
    return sorted([*globals(), *_LAZY])
