"""The FLOP columns of a bench hold for every selector on every family: analytic stages, and the selector as counted."""

import csv
import io
from dataclasses import dataclass, field

import pytest

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError
from zoo_exp.measure.bench import Plan, run_bench
from zoo_exp.measure.inputs import made_up_inputs
from zoo_exp.models.families import adapter_for
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.tiny import tiny_model
from zoo_exp.report.renderers import csv_text
from zoo_exp.report.tables_bench import bench_columns

FAMILIES = ("llava", "llava_next", "qwen2_5_vl")
RECEIVED = ("cls_attention", "visionzip", "vispruner")  # Qwen2.5-VL's encoder has no CLS token
FREE = ("full", "blind", "random", "uniform_grid", "feature_norm", "cls_attention", "hiprune")


@dataclass(frozen=True)
class Arm:
    """A selector by its name."""

    selector: str
    budget: Budget | None
    options: dict = field(default_factory=dict)

    @property
    def label(self):
        """Its name."""
        return self.selector

    def build(self):
        """The selector."""
        return selectors.get(self.selector, **self.options)


def arms(family):
    for name in selectors.available():
        # `resize` needs the grid of a single tile, `scope` attention of the CLS token.
        if (family, name) in (("llava_next", "resize"), ("qwen2_5_vl", "scope")):
            continue
        options = {"attention": "received"} if family == "qwen2_5_vl" and name in RECEIVED else {}
        if name == "visionzip":
            options["contextual_share"] = 0.4
        # Within what SparseVLM has schedules for.
        budget = None if name in ("full", "blind") else Budget(keep_ratio=0.3)
        yield Arm(name, budget, options)


@pytest.fixture(scope="module", params=FAMILIES)
def rows(request):
    model = tiny_model(request.param)
    adapter = adapter_for(model)
    loaded = LoadedModel(model, None, adapter, request.param, adapter.n_visual)

    def prepare(batch_size):
        inputs = made_up_inputs(adapter, batch_size, 20, (112, 112))
        return lambda: inputs

    plan = Plan((2,), new_tokens=3, repeats=1, warmup=0)
    return run_bench(loaded, list(arms(request.param)), prepare, plan)


def test_every_selector_has_its_row(rows):
    missing = set(selectors.available()) - {row.selector for row in rows}
    assert missing <= {"resize", "scope"}
    assert all(len(row.passes) == 1 and not row.status for row in rows)


def test_flops_are_what_torch_counts_for_every_selector(rows):
    for row in rows:
        assert row.flops.total == pytest.approx(row.counted_flops, rel=0.01), row.arm
        assert (row.flops.select == 0) == (row.selector in FREE), row.arm


def test_the_total_includes_the_selector(rows):
    lines = list(csv.DictReader(io.StringIO(csv_text(bench_columns(rows)))))
    for line, row in zip(lines, rows, strict=True):
        stages = sum(
            float(line[f"{name}_tflop"]) for name in ("tower", "projector", "select", "prefill", "decode")
        )
        assert float(line["total_tflop"]) == pytest.approx(stages, rel=1e-3)
        assert float(line["total_tflop"]) == pytest.approx(row.counted_flops / 1e12, rel=0.01)


def test_a_selector_that_kept_everything_is_refused_after_its_run():
    """A budget per tile is known to prune nothing only once the tiles are."""
    model = tiny_model("llava")
    adapter = adapter_for(model)
    loaded = LoadedModel(model, None, adapter, "llava", adapter.n_visual)
    inputs = made_up_inputs(adapter, 1, 20, (56, 56))
    arm = Arm("divprune", Budget(count=adapter.n_visual, per="tile"))
    with pytest.raises(
        InvalidValueError, match=r"arm 'divprune' kept all 16 visual tokens: nothing is pruned"
    ):
        run_bench(loaded, [arm], lambda _: lambda: inputs, Plan(repeats=1, warmup=0, new_tokens=2))
