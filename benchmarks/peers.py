r"""Side by side in one process: `run`, lmms-eval with the plug-in of this package, and stock `generate`.

    python benchmarks/peers.py                                  # 100 questions of each of two tasks, four arms
    python benchmarks/peers.py --limit 10 --arms full divprune --csv experiments/efficiency/peers.csv

The same questions, arms, batch size and threads. Times are from the first question to the last response, without
loading, tables and task files: the test loop of `run`, with preprocessing, scores and journals; `generate_until` of
lmms-eval, with preprocessing; and a bare loop over the processor and `model.generate` inside `zoo_exp.pruned`. Each
loop answers one arm at a time; `run` also answers all arms in one run, on one vision pass. The selector's time is taken
inside its own methods, so it is the same quantity in each loop.

lmms-eval is not a dependency, because its requirements conflict; its rows appear if it can be imported:

    pip install --no-deps --target OVERLAY lmms-eval==0.7.3 accelerate loguru sacrebleu portalocker tabulate \
        colorama lxml evaluate pytz tenacity openpyxl pytablewriter dataproperty typepy mbstrdecoder chardet \
        tcolorpy pathvalidate tabledata filelock==3.16.1
    PYTHONPATH=OVERLAY python benchmarks/peers.py

AngelSlim does not run on the transformers of this package. Its rows are quoted: see `QUOTED`.
"""

import argparse
import csv
import importlib.metadata
import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ARMS = ("full", "divprune", "visionzip", "zoo")
TASKS = ("embedded_pope", "embedded_vqav2")
BATCH = 20
"""Questions per batch; that of lmms_eval_parity.py."""
COLUMNS = ("loop", "arm", "questions", "samples_per_s", "selector_ms", "answers_equal", "measured")
LMMS_EVAL = "lmms-eval 0.7.3 with the plug-in"
OURS, STOCK = "run", "stock generate"
HERE = "in this table's run"
OUTSIDE = "quoted, AngelSlim 67394ce"
CLOCK: list[Callable[[], float]] = [time.perf_counter]
"""What measures."""
Answers = dict[tuple[str, int], str]
"""(task, row of the data) -> response."""


@dataclass(frozen=True)
class Row:
    """One arm in one loop.

    Attributes:
        loop: what asked the questions.
        arm: the arm, or all of them.
        questions: number of responses.
        samples_per_s: responses per second.
        selector_ms: milliseconds in the selector per response; None where it was not measured.
        equal: responses that are those of `run`; None for `run` itself.
        measured: where the numbers come from.
    """

    loop: str
    arm: str
    questions: int
    samples_per_s: float
    selector_ms: float | None
    equal: int | None
    measured: str = HERE

    def cells(self) -> list[str]:
        """Texts in the order of `COLUMNS`."""
        selector = "" if self.selector_ms is None else f"{self.selector_ms:.2f}"
        equal = "" if self.equal is None else f"{self.equal} of {self.questions}"
        rate = f"{self.samples_per_s:.1f}"
        return [self.loop, self.arm, str(self.questions), rate, selector, equal, self.measured]


def quoted(loop: str, arm: str, milliseconds: float, equal: int | None = None) -> Row:
    """A row of the comparison with AngelSlim, which was made outside of this program."""
    return Row(loop, arm, 50, 1e3 / milliseconds, None, equal, OUTSIDE)


QUOTED = (
    quoted("AngelSlim 67394ce", "full", 26.3, 50),
    quoted("AngelSlim 67394ce", "divprune @36", 25.6, 44),
    quoted("AngelSlim 67394ce", "visionzip @36", 23.8, 46),
    quoted("zoo_exp beside AngelSlim", "full", 24.9),
    quoted("zoo_exp beside AngelSlim", "divprune @36", 25.9),
    quoted("zoo_exp beside AngelSlim", "visionzip @36", 24.8),
)
"""Tencent/AngelSlim at commit 67394ce on transformers 5.6.0, zoo_exp on 5.23, where every strategy of AngelSlim fails.

The embedded model, 25 questions of VQAv2 and 25 of GQA, batch size 1, one CPU core; rates are from the median CPU time
of a response. Paths in its YAML for `visionzip` were corrected. The machine is not that of the other rows.
"""


def count_equal(answers: Answers, reference: Answers) -> int:
    """Number of responses that are equal to those of `reference`."""
    return sum(answers.get(key) == text for key, text in reference.items())


def csv_text(rows: Sequence[Row]) -> str:
    """All rows as a CSV file."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.cells() for row in rows)
    return file.getvalue()


def markdown(rows: Sequence[Row]) -> str:
    """All rows as a Markdown table."""
    lines = [list(COLUMNS), [":--", ":--", "--:", "--:", "--:", "--:", ":--"], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


@dataclass
class Clock:
    """Seconds of a loop, and those that its selector took.

    Attributes:
        seconds: from the first question to the last response.
        selecting: seconds in the methods of the selectors.
    """

    seconds: float = 0.0
    selecting: float = 0.0

    def row(self, loop: str, arm: str, questions: int, equal: int | None) -> Row:
        """The row of this measurement."""
        return Row(
            loop, arm, questions, questions / self.seconds, 1e3 * self.selecting / questions, equal, HERE
        )


@contextmanager
def clocked(target: type, methods: Sequence[str], add: Callable[[float], None]) -> Iterator[None]:
    """Pass the seconds of each call of some methods to `add`; a call inside of another one belongs to that one."""
    own, depth = dict(vars(target)), [0]

    def timed(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            depth[0] += 1
            started = CLOCK[0]()
            try:
                return original(*args, **kwargs)
            finally:
                depth[0] -= 1
                if not depth[0]:
                    add(CLOCK[0]() - started)

        return call

    for name in methods:
        setattr(target, name, timed(getattr(target, name)))
    try:
        yield
    finally:
        for name in methods:
            if name in own:
                setattr(target, name, own[name])
            else:
                delattr(target, name)


@contextmanager
def selecting(arm: str, clock: Clock) -> Iterator[None]:
    """Add the time in the selector of an arm to a clock, in whatever loop."""
    from zoo_exp import selectors

    def add(seconds: float) -> None:
        clock.selecting += seconds

    with clocked(type(selectors.get(arm)), ("score", "select_many"), add):
        yield


def budget_of(arm: str, budget: int) -> int | None:
    """The budget of an arm; None for selectors that take none."""
    from zoo_exp.core.budget import WITHOUT_BUDGET

    return None if arm in WITHOUT_BUDGET else budget


def own_loop(
    names: Sequence[str], args: argparse.Namespace, folder: Path, marks: dict[str, float]
) -> tuple[dict[str, Answers], float]:
    """A run of some arms: the responses by selector, and the seconds of its test loop."""
    from rich.console import Console

    from zoo_exp import pipeline, tasks
    from zoo_exp.config import compose
    from zoo_exp.runs import reading
    from zoo_exp.tasks import data

    overrides = [f"selector=[{','.join(names)}]", f"task=[{','.join(TASKS)}]", f"limit={args.limit}"]
    overrides += [
        f"model.batch_size={BATCH}",
        "logger=none",
        "trainer=cpu",
        f"out={folder / '-'.join(names)}",
    ]
    if any(budget_of(name, args.budget) for name in names):
        overrides.append(f"budget={args.budget}")
    experiment = compose(overrides)
    pipeline.run(experiment, Console(quiet=True))
    answers: dict[str, Answers] = {name: {} for name in names}
    rows = {name: data.load(tasks.get(name), None, args.limit).sample_ids(tasks.get(name)) for name in TASKS}
    places = {(name, sample): place for name, ids in rows.items() for place, sample in enumerate(ids)}
    for record in reading.records(experiment.run_dir):
        answers[record["selector"]][record["task"], places[record["task"], record["sample_id"]]] = record[
            "response"
        ]
    return answers, marks["end"] - marks["start"]


def lmms_eval_loop(arm: str, args: argparse.Namespace, folder: Path) -> tuple[Answers, float]:
    """lmms-eval with the plug-in: the responses, and the seconds in `generate_until`."""
    import lmms_eval_parity as parity

    from zoo_exp.lmms_eval_plugin.models import ZooExp

    spent: list[float] = []
    for name in TASKS:
        parity.write_task(folder, name, args.limit)
    given = argparse.Namespace(tasks=list(TASKS), limit=args.limit, selector=arm, budget=str(args.budget))
    with clocked(ZooExp, ["generate_until"], spent.append):
        found, _ = parity.reference_loop(folder, given, "chat")
    return {(name, row): text for name, rows in found.items() for row, (text, _) in rows.items()}, sum(spent)


def stock_loop(arm: str, args: argparse.Namespace, loaded: Any) -> tuple[Answers, float]:
    """`model.generate` inside `zoo_exp.pruned`, and without it for all tokens: the responses and the time."""
    import torch

    import zoo_exp
    from zoo_exp import tasks
    from zoo_exp.evaluation.sample_batches import Collate, Sample
    from zoo_exp.models.answering import DEFAULT_NEW_TOKENS
    from zoo_exp.models.responses import cut
    from zoo_exp.tasks import data

    answers: Answers = {}
    started = CLOCK[0]()
    pruning = nullcontext() if arm == "full" else zoo_exp.pruned(loaded, arm, budget_of(arm, args.budget))
    with pruning, torch.inference_mode():
        for name in TASKS:
            task = tasks.get(name)
            rows = data.load(task, None, args.limit)
            collate = Collate(task, loaded.processor, "embedded")
            for start in range(0, len(rows), BATCH):
                places = range(start, min(start + BATCH, len(rows)))
                inputs = collate([Sample(n, task.sample_id(rows[n]), rows[n]) for n in places]).inputs
                longest = task.generation.max_new_tokens or DEFAULT_NEW_TOKENS
                ids = loaded.model.generate(**inputs, max_new_tokens=longest, do_sample=False)
                new = ids[:, inputs["input_ids"].shape[1] :]
                texts = loaded.processor.batch_decode(new, skip_special_tokens=True)
                answers |= {
                    (name, n): cut(t, task.generation.until) for n, t in zip(places, texts, strict=True)
                }
    return answers, CLOCK[0]() - started


def lmms_eval_version() -> str | None:
    """The version of lmms-eval, if it is installed."""
    try:
        return importlib.metadata.version("lmms-eval")
    except importlib.metadata.PackageNotFoundError:
        return None


def compare(args: argparse.Namespace, folder: Path) -> list[Row]:
    """Measure all loops that are installed."""
    from throughput import mark_the_test_loop

    from zoo_exp import tasks
    from zoo_exp.models.loading import load_model
    from zoo_exp.tasks import data

    marks = mark_the_test_loop(CLOCK[0])
    own_loop(args.arms, argparse.Namespace(limit=2, budget=args.budget), folder / "warm-up", marks)
    for name in TASKS:  # the questions are drawn once per process, outside of all times
        data.load(tasks.get(name), None, args.limit)
    loaded = load_model("embedded", device="cpu")
    loops: dict[str, Callable[[str], tuple[Any, float]]] = {
        OURS: lambda arm: own_loop([arm], args, folder, marks),
        STOCK: lambda arm: stock_loop(arm, args, loaded),
    }
    if version := lmms_eval_version():
        loops[LMMS_EVAL.replace("0.7.3", version)] = lambda arm: lmms_eval_loop(arm, args, folder)
    rows: list[Row] = []
    reference: dict[str, Answers] = {}
    for loop, answer in loops.items():
        mine = []
        for arm in args.arms:
            clock = Clock()
            with selecting(arm, clock):
                answers, clock.seconds = answer(arm)
            answers = answers[arm] if loop == OURS else answers
            equal = None if loop == OURS else count_equal(answers, reference[arm])
            reference.setdefault(arm, answers)
            mine.append(clock.row(loop, arm, len(answers), equal))
        rows += [*mine, one_by_one(mine)]
    together, seconds = own_loop(args.arms, args, folder, marks)
    asked = sum(map(len, together.values()))
    equal = sum(count_equal(together[arm], reference[arm]) for arm in args.arms)
    rows.insert(len(args.arms) + 1, Row(OURS, "all arms, one run", asked, asked / seconds, None, equal))
    return rows


def one_by_one(rows: Sequence[Row]) -> Row:
    """All arms of a loop, one after another."""
    asked = sum(row.questions for row in rows)
    seconds = sum(row.questions / row.samples_per_s for row in rows)
    equal = None if rows[0].equal is None else sum(row.equal or 0 for row in rows)
    return Row(rows[0].loop, "all arms, one by one", asked, asked / seconds, None, equal)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--limit", type=int, default=100, help="questions of each task")
    parser.add_argument("--budget", type=int, default=16)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), help="selectors, in their default variants")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--clock", default="wall", choices=("wall", "process"), help="process: CPU time, on a shared machine"
    )
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    CLOCK[0] = time.process_time if args.clock == "process" else time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        rows = [*compare(args, Path(name)), *QUOTED]
    print(markdown(rows))
    if lmms_eval_version() is None:
        print("\nlmms-eval is not installed: its rows are missing; see --help")
    if args.csv:
        args.csv.write_text(csv_text(rows))


if __name__ == "__main__":
    main()
