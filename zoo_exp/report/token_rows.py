"""Read tokens.jsonl of a run (`python -m zoo_exp tokens`) and average it over images."""

from pathlib import Path

import numpy as np
import pandas as pd

from zoo_exp.errors import MissingFileError
from zoo_exp.runs.records import read_jsonl

TOKENS_FILE = "tokens.jsonl"
COLUMNS = (
    *("task", "sample_id", "image", "arm", "selector", "options", "budget", "reference"),
    *("spearman", "spearman_above", "overlap", "effective_rank", "kept_tokens", "n_visual", "select_ms"),
)
NUMBERS = COLUMNS[8:]


def read_tokens(run_dir: Path) -> pd.DataFrame:
    """One row per question, image and arm; empty where `tokens` was not run.

    Raises:
        MissingFileError: a damaged line, or one that lacks a column.
    """
    path = Path(run_dir) / TOKENS_FILE
    rows = read_jsonl(path) if path.exists() else []
    for number, row in rows:
        missing = [name for name in COLUMNS if name not in row]
        if missing:
            raise MissingFileError(f"{path}, line {number} lacks {', '.join(missing)}: run `tokens` again")
    frame = pd.DataFrame([row for _, row in rows], columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(NUMBERS, float))


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
