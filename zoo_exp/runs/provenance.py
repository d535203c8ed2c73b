"""Provenance of results: versions, commit, machine."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from zoo_exp import __version__

PACKAGES = (
    "torch",
    "transformers",
    "lightning",
    "torchmetrics",
    "numpy",
    "scipy",
    "pandas",
    "wandb",
)


def versions(root: Path | None = None) -> dict[str, Any]:
    """Versions, commit and machine, to be stored with results; contains no user, host or folder names.

    Args:
        root: folder of the git repository; by default the installed package.
    """
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
    }
    facts["zoo-exp"] = __version__  # installed metadata may be those of an earlier checkout
    facts |= {name: version for name in PACKAGES if (version := _version(name))}
    # Only if torch is already imported: a report does not import it for this.
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        facts["torch_threads"] = torch.get_num_threads()
    commit = git_commit(root or Path(__file__).resolve().parent)
    return facts | ({"git_commit": commit} if commit else {})


def git_commit(folder: Path) -> str | None:
    """Commit of the work tree that tracks `folder`, with `+changes` if files differ from it, or None.

    A package installed into an untracked folder of another repository has no commit.
    """
    commit = _git(folder, "rev-parse", "--verify", "HEAD")
    if not commit or not _git(folder, "ls-files", "."):
        return None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return commit + ("+changes" if changed else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
