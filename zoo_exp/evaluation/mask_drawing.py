"""Draw the masks of any questions of a run from the kept tokens that it recorded; no model is needed.

The image comes from the task's data again, and the processor shows what the model saw of it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from zoo_exp.config.schema import ModelConfig
from zoo_exp.errors import MissingFileError, ZooExpError
from zoo_exp.evaluation.mask_rows import write_image
from zoo_exp.evaluation.sample_batches import Collate, Sample
from zoo_exp.evaluation.sources import load_processor
from zoo_exp.models.seen import Layout, Seen, seen_all
from zoo_exp.runs import folder, kept, manifest, merge, reading
from zoo_exp.runs.journal import Journal
from zoo_exp.runs.records import MaskArm, MaskRow
from zoo_exp.tasks import data
from zoo_exp.tasks import get as get_task

DIFFERING = 12
"""Questions of a task on which arms differ whose masks are drawn when a run ends."""
WITHOUT_TOKENS = "blind"


@dataclass
class Drawing:
    """Draws masks into the folder of a run.

    Args:
        run: the run folder.
        processor: of the run's model; None loads it where it is needed.
    """

    run: Path
    processor: Any = None

    def __post_init__(self) -> None:
        self.experiment = manifest.read(self.run)["experiment"]
        known = {item.name for item in fields(ModelConfig)}
        self.model = ModelConfig(
            **{key: value for key, value in self.experiment["model"].items() if key in known}
        )

    def draw(self, wanted: Mapping[str, Sequence[str]]) -> int:
        """Add the masks of some questions to `masks.jsonl`, with their images; those that are there stay as they are.

        Args:
            wanted: task -> ids of questions.

        Returns:
            Number of questions that were drawn; a question with several images, or tokens that form no grid, has none.

        Raises:
            MissingFileError: the data of a task or the processor are not there, or no kept tokens were recorded.
        """
        there = {(row.task, row.sample_id) for row in reading.masks(self.run, damaged=[])}
        drawn = 0
        for task, samples in wanted.items():
            lacking = [sample for sample in samples if (task, sample) not in there]
            rows = self._rows(task, lacking) if lacking else []
            for cell in dict.fromkeys(row.cell for row in rows):
                with Journal(self.run, folder.MASKS, cell) as journal:
                    journal.append(row.to_row() for row in rows if row.cell == cell)
            drawn += len(rows)
        if drawn:
            arms = {arm["arm_id"]: (arm["arm"], arm["row"]) for arm in self.experiment["arms"]}
            merge.merge_masks(self.run, merge.Members(arms=arms))
        return drawn

    def _rows(self, name: str, samples: Sequence[str]) -> list[MaskRow]:
        known = kept.read(self.run, name, samples)
        if not known:
            raise MissingFileError(
                f"{self.run} has no kept tokens of {name} {', '.join(samples[:3])}: runs of earlier versions did not "
                "record them; answer again with fresh=true"
            )
        arms = [arm["arm_id"] for arm in self.experiment["arms"]]
        records: dict[tuple[str, str], Mapping[str, Any]] = {}
        for row in reading.records(self.run, damaged=[]):
            if row["task"] == name and row["sample_id"] in samples and row.get("not_applicable") is None:
                records[row["sample_id"], row["arm_id"]] = row
        task = get_task(name)
        rows = data.load(task, self.experiment.get("data", {}).get("root"), self.experiment.get("limit"))
        place = {sample: number for number, sample in enumerate(rows.sample_ids(task))}
        if self.processor is None:
            self.processor = load_processor(self.model)
        collate = Collate(task, self.processor, self.model.prompt_family)
        made = []
        for sample in samples:
            mine = [arm for arm in arms if (sample, arm) in records and (name, sample, arm) in known]
            if sample not in place or not mine:
                continue
            doc = rows[place[sample]]
            layout = known[name, sample, mine[0]].layout
            view = self._view(collate, Sample(place[sample], sample, doc), layout)
            if view is None:
                continue
            shown = []
            for arm in mine:
                row, chosen = records[sample, arm], known[name, sample, arm]
                indices = tuple(view.marked(torch.tensor(chosen.indices(), dtype=torch.long)))
                shown.append(
                    MaskArm(
                        arm=row["arm"],
                        arm_id=arm,
                        indices=indices,
                        response=row["response"],
                        score=row["score"],
                    )
                )
            first = records[sample, mine[0]]
            made.append(
                MaskRow(
                    task=name,
                    cell=first["cell"],
                    sample_id=sample,
                    question=first["question"],
                    reference=first["reference"],
                    grid=(int(view.grid[0]), int(view.grid[1])),
                    image=write_image(self.run, name, sample, view.image),
                    arms=tuple(shown),
                )
            )
        return made

    def _view(self, collate: Collate, sample: Sample, layout: str) -> Seen | None:
        """What the model saw of the image of a question; None if it has none or several."""
        images = collate.task.images(sample.doc)
        if len(images) != 1 or not layout:
            return None
        inputs = collate([sample]).inputs
        tokens = [Layout.parse(image) for image in layout.split()]
        return seen_all(tokens, images[0], inputs, self.processor) if inputs else None


def differing(run: Path, seed: int, most: int = DIFFERING) -> dict[str, list[str]]:
    """Task -> questions that some arms answer correctly and others not, drawn by the seed; `blind` does not count.

    Args:
        run: the run folder, after its records were merged.
        seed: of the draw.
        most: largest number per task.
    """
    from pyarrow import parquet

    columns = ["task", "sample_id", "selector", "score"]
    right: set[tuple[str, str]] = set()
    wrong: set[tuple[str, str]] = set()
    try:
        with parquet.ParquetFile(folder.merged(run, folder.RECORDS, ".parquet")) as file:
            for batch in file.iter_batches(columns=columns):
                values = (batch.column(name).to_pylist() for name in columns)
                for task, sample, selector, score in zip(*values, strict=True):
                    if selector != WITHOUT_TOKENS and score is not None and score == score:
                        (right if score >= 0.5 else wrong).add((task, sample))
    except (OSError, ValueError, KeyError):
        return {}
    found: dict[str, list[str]] = {}
    for task, sample in sorted(right & wrong):
        found.setdefault(task, []).append(sample)
    return {
        task: sorted(own, key=lambda sample: _drawn(seed, task, sample))[:most] for task, own in found.items()
    }


def draw_differing(run: Path, seed: int, processor: Any = None) -> str:
    """Draw the masks that a run gets when it ends; returns why there are none, or nothing.

    A run is complete without them: missing data or a damaged processor end nothing.
    """
    try:
        Drawing(run, processor).draw(differing(run, seed))
    except (ZooExpError, OSError, ValueError) as error:
        return f"no masks of the questions on which arms differ: {error}"
    return ""


def _drawn(seed: int, task: str, sample: str) -> bytes:
    return hashlib.blake2b(f"{seed}\0{task}\0{sample}".encode(errors="replace"), digest_size=8).digest()
