"""Read tokens.jsonl of a run (`python -m zoo_exp tokens`) and average it over images."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from zoo_exp.files import DamagedRowError
from zoo_exp.runs import folder
from zoo_exp.runs.reading import optional

COLUMNS = (
    *("task", "sample_id", "image", "arm", "selector", "options", "budget", "reference"),
    *("spearman", "spearman_above", "overlap", "effective_rank", "kept_tokens", "n_visual", "select_ms"),
)
NUMBERS = COLUMNS[8:]


def read_tokens(run_dir: Path) -> pd.DataFrame:
    """One row per question, image and arm; empty where `tokens` was not run. Damaged lines are left out."""
    frame = pd.DataFrame(optional(folder.tokens(Path(run_dir)), _checked), columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(NUMBERS, float))


def _checked(row: Mapping[str, Any]) -> Mapping[str, Any]:
    missing = [name for name in COLUMNS if name not in row]
    if missing:
        raise DamagedRowError(f"it lacks {', '.join(missing)}: run `tokens` again")
    for name in ("task", "sample_id", "arm", "selector", "reference"):
        if not isinstance(row[name], str):
            raise DamagedRowError(f"{name} is no text")
    for name in NUMBERS:
        if row[name] is not None and type(row[name]) not in (int, float):
            raise DamagedRowError(f"{name} is no number")
    return row


def averages(tokens: pd.DataFrame) -> pd.DataFrame:
    """Means over images by arm, in order of appearance, each with 1.96 standard errors (columns NAME_se).

    Images of one task repeat between questions, so the standard errors are a guide, not a test.
    """
    rows = []
    for arm, part in tokens.groupby("arm", sort=False):
        line: dict[str, object] = {"arm": arm, "budget": part["budget"].iloc[0], "images": len(part)}
        for name in NUMBERS:
            known = part[name].to_numpy(float)
            known = known[~np.isnan(known)]
            line[name] = float(known.mean()) if known.size else np.nan
            spread = known.std(ddof=1) / np.sqrt(known.size) if known.size > 1 else np.nan
            line[f"{name}_se"] = 1.96 * float(spread)
        rows.append(line)
    return pd.DataFrame(rows)
