"""Start a run anew (`fresh=true`): what is recorded is set aside, and nothing is taken from earlier runs."""

import os
import shutil
import tempfile
from collections.abc import Collection
from pathlib import Path

from zoo_exp.errors import MissingFileError
from zoo_exp.runs import folder, lock


def start_anew(run: Path, cells: Collection[str]) -> Path | None:
    """Put an empty run folder, which takes no records from others, in the place of the present one.

    The present folder is renamed, so that nothing is lost. A job that SLURM has requeued resumes instead: it is the
    same command, run again.

    Args:
        run: the run folder; it need not exist.
        cells: ids of all cells; no other process may be writing them.

    Returns:
        The new name of the present folder; None if there was none.

    Raises:
        ZooExpError: another process writes to the folder, or it cannot be renamed.
    """
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0):
        return None
    empty: Path | None = None
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        empty = Path(tempfile.mkdtemp(dir=run.parent, prefix=f".{run.name}-"))
        empty.chmod(0o777 & ~_umask())
        folder.fresh(empty).touch()
        aside = None
        if run.exists():
            with lock.cells(run, cells):
                aside = _free(run)
                run.rename(aside)
        empty.rename(run)
    except OSError as error:
        raise MissingFileError(f"fresh=true: {run} cannot be set aside: {error.strerror or error}") from error
    finally:
        if empty is not None:  # it has another name if all went well
            shutil.rmtree(empty, ignore_errors=True)
    return aside


def is_fresh(run: Path) -> bool:
    """Whether a run was started anew, and so takes no records from others."""
    return folder.fresh(run).exists()


def is_aside(run: Path) -> bool:
    """Whether a folder was set aside, so that nobody takes records from it."""
    return folder.ASIDE in run.name


def _free(run: Path) -> Path:
    number = 1
    while (path := run.with_name(f"{run.name}{folder.ASIDE}{number}")).exists():
        number += 1
    return path


def _umask() -> int:
    value = os.umask(0o077)
    os.umask(value)
    return value
