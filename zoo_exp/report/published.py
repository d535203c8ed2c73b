"""The papers' numbers beside ours: joined only where model, benchmark, protocol and budget are the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.tasks import get as get_task

MODELS = {
    "llava15_7b": "LLaVA-1.5-7B",
    "llava15_13b": "LLaVA-1.5-13B",
    "llava_next_7b": "LLaVA-NeXT-7B",
}
CHECKPOINTS = {
    "llava15_7b": "llava-1.5-7b-hf",
    "llava15_13b": "llava-1.5-13b-hf",
    "llava_next_7b": "llava-v1.6-vicuna-7b-hf",
}
"""What the paths of those models contain, on the hub, in its cache, or in a folder of one's own."""
BENCHMARKS = {  # our task -> the id in published.csv
    "gqa": "gqa",
    "mmbench_en_dev_static": "mmbench_en_dev",
    "mme": "mme_perception_cognition",
    "pope": "pope",
    "scienceqa_img": "scienceqa_img",
    "textvqa_val_ocr": "textvqa_ocr",
    "mmmu_val": "mmmu_val",
    "seedbench": "seedbench_all",
    "seedbench_image": "seedbench_image",
}
METHODS = {
    "full": "full",
    "divprune": "DivPrune",
    "visionzip": "VisionZip",
    "fastv": "FastV",
    "sparsevlm": "SparseVLM",
}
COUNT, TILES = "count per image", "count per image of up to 5 tiles"
"""What the papers' counts mean; the second one, on LLaVA-NeXT, is a fifth of it of every tile (supplement C.2)."""
PROTOCOL: dict[str, dict[str, Any]] = {"llava_next_7b": {"projector": "low_rank", "rank": 128}}
"""Options of the paper's own method on a model besides the fusion (supplement C.2)."""
ARTEFACTS = {  # experiment -> source and table of the paper
    "table1_llava15_7b": ("poster", "1"),
    "table2_llava15_13b": ("poster", "2"),
    "table3_llava_next_7b": ("poster", "3"),
    "ablation_fusion": ("poster", "4"),
    "embedded_nine": ("poster", "1"),
    "encoder_proxy": ("supplement", "D"),
}
COLUMNS = (
    *("arm", "task", "ours", "low", "high", "published", "difference", "within"),
    *("source", "table", "protocol", "budget"),
)
PATH = Path(__file__).resolve().parents[2] / "experiments" / "published.csv"


def read(path: Path = PATH) -> pd.DataFrame:
    """The file, or an empty frame where only the package is installed."""
    if not path.is_file():
        return pd.DataFrame(
            columns=["source", "table", "model", "method", "variant", "benchmark_id", "value"]
        )
    return pd.read_csv(path, keep_default_na=False, dtype={"table": str, "budget": str})


def beside(frame: pd.DataFrame, experiment: Mapping[str, Any]) -> tuple[pd.DataFrame, list[str]]:
    """The result of `join` for a run; empty, with the reasons, where the run is not what the papers evaluated.

    Args:
        frame: `Results.frame`.
        experiment: the run's resolved configuration.

    Returns:
        Rows with `COLUMNS` and `model_protocol`, and notes for the reader.
    """
    model = dict(experiment.get("model") or {})
    name, path = str(model.get("name")), str(model.get("path"))
    joined = join(frame, name, read())
    reasons = []
    checkpoint = CHECKPOINTS.get(name, "")
    if checkpoint not in path and checkpoint not in str(model.get("checkpoint") or ""):
        reasons.append(
            f"model.path={path} is not known to be the paper's checkpoint; if it holds llava-hf/{checkpoint}, type "
            f"model.checkpoint=llava-hf/{checkpoint}"
        )
    protocol = str(model.get("protocol") or "hf")
    if protocol != "llava":
        reasons.append(
            f"model.protocol is {protocol}, and theirs is of LLaVA's own code (other prompts, padded images): type "
            "model.protocol=llava"
        )
    if model.get("weights", "pretrained") != "pretrained":
        reasons.append(f"model.weights is {model['weights']}")
    if model.get("layers") is not None:
        reasons.append(f"only the first {model['layers']} layers of the model are used")
    if experiment.get("limit") is not None:
        reasons.append(f"limit={experiment['limit']} evaluates a part of each benchmark")
    if joined.empty or not reasons:
        return joined.assign(model_protocol=protocol), []
    return joined.head(0), [f"published numbers are not shown: {', '.join(reasons)}"]


def join(frame: pd.DataFrame, model: str, published: pd.DataFrame) -> pd.DataFrame:
    """Our rows that have a published counterpart, with signed differences (ours minus published).

    Averages are never joined: ours is over our tasks, and the papers' nine hold two benchmarks (VQAv2 on the
    challenge server, TextVQA with OCR tokens) that most runs measure otherwise.

    Args:
        frame: `Results.frame`.
        model: name of the model's configuration.
        published: from `read`.

    Returns:
        Columns `COLUMNS`; metrics in the unit of the paper (percent, or points for MME). `within` says whether
        the published value lies in our interval.
    """
    lines: list[dict[str, Any]] = []
    name = MODELS.get(model)
    if name is None or published.empty:
        return pd.DataFrame(lines, columns=list(COLUMNS))
    theirs = published[published["model"] == name]
    for row in frame[frame["task"] != AVERAGE].to_dict("records"):
        method = _method(row, PROTOCOL.get(model, {}))
        benchmark = BENCHMARKS.get(str(row["task"]))
        # An arm that keeps more than its budget (layer selectors: mean over layers) has another budget.
        if method is None or benchmark is None or row.get("above_budget"):
            continue
        mine = theirs[
            (theirs["method"] == method[0])
            & (theirs["variant"] == method[1])
            & (theirs["benchmark_id"] == benchmark)
        ]
        if method[0] != "full":
            mine = mine[_same_budget(mine, str(row["budget"]))]
        for other in mine.drop_duplicates("value").to_dict("records"):
            scale = get_task(str(row["task"])).scale.factor
            ours, low, high = (scale * float(row[key]) for key in ("value", "low", "high"))
            value = float(other["value"])
            lines.append(
                {"arm": row["arm"], "task": row["task"], "ours": ours, "low": low, "high": high}
                | {"published": value, "difference": ours - value, "within": low <= value <= high}
                | {key: other[key] for key in ("source", "table", "protocol", "budget")}
            )
    return pd.DataFrame(lines, columns=list(COLUMNS))


def averages(experiment: str, published: pd.DataFrame) -> pd.DataFrame:
    """The paper's own averages of the artefact that an experiment rebuilds: budget, method, keep ratio, average.

    For orientation only, where the experiment ran on another model: other images, other questions.
    """
    source, table = ARTEFACTS.get(experiment, ("", ""))
    if published.empty or not source:
        return pd.DataFrame()
    mine = published[
        (published["source"] == source) & (published["table"] == table) & (published["benchmark"] == "avg")
    ]
    if mine.empty:
        return pd.DataFrame()
    counts = mine["budget"].astype(float)
    return pd.DataFrame(
        {
            "method": [
                " ".join(filter(None, pair)) for pair in zip(mine["method"], mine["variant"], strict=True)
            ],
            "budget": mine["budget"],
            "keep": counts / mine["total_tokens"].astype(float),
            "average": mine["value"].astype(float),
            "model": mine["model"],
            "protocol": mine["protocol"],
            "source": f"{source}, table {table}",
        }
    ).reset_index(drop=True)


def _same_budget(theirs: pd.DataFrame, budget: str) -> "pd.Series[bool]":
    """Which published rows have our budget: a count per image, or a fifth of a count "of up to 5 tiles" per tile.

    A keep ratio, and a count that all tiles of an image share, are other budgets.
    """
    counts = pd.to_numeric(theirs["budget"], errors="coerce")
    per_tile = budget.endswith("/tile")
    wanted = pd.to_numeric(budget.removesuffix("/tile"), errors="coerce") * (5 if per_tile else 1)
    return (counts == wanted) & (theirs["budget_definition"] == (TILES if per_tile else COUNT))


def _method(row: Mapping[str, Any], protocol: Mapping[str, Any]) -> tuple[str, str] | None:
    """Method and variant in the paper that an arm of ours is; None where there is none.

    ZOO's rows are the paper's method with exactly the options of its protocol on the model; any other option makes
    another method.
    """
    options = json.loads(row["options"]) if isinstance(row["options"], str) else dict(row["options"])
    if row["selector"] in METHODS:
        return (METHODS[row["selector"]], "") if not options else None
    own = {k: v for k, v in options.items() if k != "fusion"}
    if own.get("projector") == "low_rank":
        own.setdefault("rank", 128)
    if row["selector"] == "zoo" and own == dict(protocol):
        return ("ZOO-Prune", "") if options.get("fusion", "multiply") == "multiply" else None
    return None
