"""The bench on tiny models: arms, failures of single arms, rows and derived values."""

import csv
import io
import json
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from rich.console import Console

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.errors import InvalidValueError
from zoo_exp.measure.bench import OUT_OF_MEMORY, Plan, run_bench
from zoo_exp.measure.bench_rows import Conditions, Row, baseline_of, check_comparable
from zoo_exp.measure.inputs import made_up_inputs
from zoo_exp.measure.stages import STAGES, answer
from zoo_exp.measure.timing import StageClock
from zoo_exp.models.families import adapter_for
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.tiny import tiny_model
from zoo_exp.report import bench_document
from zoo_exp.report.renderers import csv_text, markdown
from zoo_exp.report.tables_bench import bench_columns, bench_table
from zoo_exp.selectors.layer.fastv import FastV


@dataclass(frozen=True)
class StandIn:
    """An arm around any selector."""

    label: str
    rule: Any
    budget: Budget | None = None
    options: dict = field(default_factory=dict)
    calls: list = field(default_factory=list)

    @property
    def selector(self):
        """Its name."""
        return self.rule.name

    def build(self):
        """The selector."""
        self.calls.append(self.label)
        return self.rule


def loaded(family="llava"):
    model = tiny_model(family)
    adapter = adapter_for(model)
    return LoadedModel(model, None, adapter, family, adapter.n_visual)


def arms():
    return [
        StandIn("full", selectors.get("full")),
        StandIn("divprune @5", selectors.get("divprune"), Budget(count=5)),
        StandIn("zoo @5", selectors.get("zoo"), Budget(count=5)),
        StandIn("fastv @5", FastV(), Budget(count=5)),
    ]


def prepare_for(model):
    def prepare(batch_size):
        inputs = made_up_inputs(model.adapter, batch_size, 20, (56, 56))
        return lambda: inputs

    return prepare


@pytest.fixture(scope="module")
def rows():
    model = loaded()
    return run_bench(model, arms(), prepare_for(model), Plan((1, 2), new_tokens=3, repeats=3, warmup=1))


def of(rows, arm, batch_size=1):
    return next(row for row in rows if (row.arm, row.batch_size) == (arm, batch_size))


def test_one_row_per_arm_and_batch_size(rows):
    assert [(row.arm, row.batch_size) for row in rows] == [
        (arm.label, batch) for batch in (1, 2) for arm in arms()
    ]
    assert all(len(row.passes) == 3 and set(row.passes[0]) == set(STAGES) for row in rows)


def test_token_counts_are_measured(rows):
    assert [of(rows, a).kept_tokens for a in ("full", "divprune @5", "zoo @5", "fastv @5")] == [16, 5, 5, 16]
    assert of(rows, "fastv @5").layer_tokens == (16 + 16 + 5 + 5) / 4
    assert of(rows, "zoo @5", 2).prompt_tokens == 25


def test_stages_do_not_overlap(rows):
    for row in rows:
        for one, whole in zip(row.passes, row.times("end_to_end").values, strict=True):
            assert sum(one.values()) == pytest.approx(whole)
            assert min(one.values()) >= 0
    zoo = of(rows, "zoo @5")
    assert zoo.times("selector").p50 > 0
    assert zoo.times("decode_per_token").values == [one["decode"] / 2 for one in zoo.passes]
    assert 0 < zoo.selector_share.p50 < 1


def test_a_layer_selectors_time_is_subtracted_from_the_prefill(rows):
    assert of(rows, "fastv @5").times("select").p50 > 0
    assert of(rows, "fastv @5").times("score").p50 == 0


def test_flops_are_those_that_torch_counts(rows):
    for row in rows:
        assert row.flops.total == pytest.approx(row.counted_flops, rel=0.01), row.arm
    assert of(rows, "zoo @5").flops.select > of(rows, "divprune @5").flops.select > 0
    assert of(rows, "zoo @5", 1).flops == of(rows, "zoo @5", 2).flops  # of one answer
    assert of(rows, "fastv @5").paper_flops is None
    assert of(rows, "zoo @5").paper_flops > of(rows, "divprune @5").paper_flops


def test_answers_are_those_of_an_evaluation():
    model, zoo = loaded(), selectors.get("uniform_grid")
    inputs = made_up_inputs(model.adapter, 2, 20)
    outcome = answer(model, lambda: inputs, zoo, 5, 4, StageClock())
    tokens = model.adapter.encode(inputs, frozenset())
    chosen = [[zoo.select(image, 5, torch.Generator()) for image in row] for row in tokens]
    prompt = prune_prompt(model.adapter, inputs, tokens, chosen)
    expected = generate_pruned(model.model, prompt, max_new_tokens=4, do_sample=False)
    assert torch.equal(outcome.new_tokens, expected)


def test_nothing_is_left_on_the_model():
    model, plan = loaded(), Plan(repeats=1, warmup=0, new_tokens=2)
    run_bench(
        model, arms()[:1], prepare_for(model), plan
    )  # transformers places hooks of its own at first use
    before = {
        name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.model.named_modules()
    }
    run_bench(model, arms(), prepare_for(model), plan)
    after = {
        name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.model.named_modules()
    }
    assert before == after


class _Greedy(type(selectors.get("uniform_grid"))):
    """A selector that requests more memory than available."""

    def score(self, tokens, generator):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")


def test_an_arm_out_of_memory_is_reported_and_the_others_continue():
    model = loaded()
    some = [arms()[0], StandIn("greedy @5", _Greedy(), Budget(count=5)), arms()[1]]
    rows = run_bench(model, some, prepare_for(model), Plan(repeats=2, warmup=0, new_tokens=2))
    assert [row.remark for row in rows if row.status] == [OUT_OF_MEMORY]
    assert [len(row.passes) for row in rows] == [2, 0, 2]
    line = cells(rows[1], rows)
    assert (line["end to end ms"], line["kept"]) == ("-", "-")
    assert OUT_OF_MEMORY in markdown(bench_table(rows))
    assert csv_text(bench_columns(rows)).count("\n") == 4


def test_a_slow_selector_can_skip_the_passes_for_memory_and_flops():
    class Counting(type(selectors.get("uniform_grid"))):
        def score(self, tokens, generator):
            calls.append(1)
            return torch.zeros(tokens.count)

    calls, model = [], loaded()
    arm, plan = StandIn("slow @5", Counting(), Budget(count=5)), Plan(repeats=1, warmup=0, new_tokens=2)
    (row,) = run_bench(model, [arm], prepare_for(model), plan, inspect=False)
    assert len(calls) == len(row.passes) == 1
    assert (row.kept_tokens, row.n_visual, row.counted_flops, row.memory_mib) == (5, 16, None, {})
    assert row.flops.prefill > 0
    assert cells(row, [row])["memory MiB"] == "-"


def test_another_error_is_not_taken_for_a_lack_of_memory():
    class Broken(type(selectors.get("uniform_grid"))):
        def score(self, tokens, generator):
            raise RuntimeError("broken")

    model = loaded()
    with pytest.raises(RuntimeError, match="broken"):
        run_bench(model, [StandIn("b", Broken(), Budget(count=5))], prepare_for(model), Plan(repeats=1))


@pytest.mark.parametrize("budget", [Budget(count=16), Budget(keep_ratio=1.0), Budget(keep_ratio=0.99)])
def test_a_budget_that_prunes_nothing_is_refused_before_anything_runs(budget):
    model, arm = loaded(), StandIn("divprune", selectors.get("divprune"), budget)
    with pytest.raises(InvalidValueError, match=r"nothing is pruned.*selector=full"):
        run_bench(model, [arm], prepare_for(model), Plan())
    assert arm.calls == []


def test_a_budget_above_the_image_is_refused():
    model = loaded()
    arm = StandIn("divprune", selectors.get("divprune"), Budget(count=17))
    with pytest.raises(InvalidValueError, match="above the 16 visual tokens"):
        run_bench(model, [arm], prepare_for(model), Plan())


def test_an_arm_that_changes_the_attention_backend_is_refused():
    class Switching(type(selectors.get("uniform_grid"))):
        def score(self, tokens, generator):
            model.model.set_attn_implementation("eager")

    model, plan = loaded(), Plan(repeats=1, warmup=0, new_tokens=1)
    with pytest.raises(InvalidValueError, match="changes the attention backend"):
        run_bench(model, [StandIn("s", Switching(), Budget(count=5))], prepare_for(model), plan)


@pytest.mark.parametrize(
    "bad", [{"repeats": 0}, {"new_tokens": 0}, {"warmup": -1}, {"batch_sizes": ()}, {"batch_sizes": (0,)}]
)
def test_impossible_plans_are_refused(bad):
    with pytest.raises(InvalidValueError):
        Plan(**bad)


CONDITIONS = Conditions("m", 4, "CPU", 1, "float32", "sdpa", 3, "2.13")


def made_up(arm, times, selector="x", **changes):
    passes = [dict.fromkeys(STAGES, 0.0) | {"prefill": t, "select": 1.0} for t in times]
    return Row(replace(CONDITIONS, **changes), arm, selector, {}, "5", 1, passes)


def cells(row, rows):
    """Header -> text of one row of the short table."""
    table = bench_table(rows)
    return dict(zip(table.headers, [cell.text for cell in table.rows[rows.index(row)]], strict=True))


def test_a_mixed_comparison_is_refused():
    mixed = [made_up("a", [1]), made_up("b", [1], attention="eager")]
    with pytest.raises(InvalidValueError, match="attention sdpa and eager"):
        check_comparable(mixed)
    for make in (bench_table, bench_columns):
        with pytest.raises(InvalidValueError, match="measured under different conditions"):
            make(mixed)
    check_comparable([made_up("a", [1]), made_up("b", [2])])


def test_a_noisy_row_is_marked():
    calm, wild = made_up("a", [100, 101, 102]), made_up("b", [100, 101, 190])
    assert calm.remark == ""
    assert wild.noisy == ["prefill", "ttft", "end_to_end"]
    assert "noisy" in wild.remark
    assert "noisy" in markdown(bench_table([calm, wild]))


def test_rows_of_two_clocks_are_not_comparable():
    mixed = [made_up("a", [1]), made_up("b", [1], clock="process")]
    assert "process time" in str(mixed[1].conditions)
    assert "process time" not in str(mixed[0].conditions)
    with pytest.raises(InvalidValueError, match="clock wall and process"):
        check_comparable(mixed)


def test_an_unknown_clock_is_refused_before_anything_runs():
    model, arm = loaded(), arms()[1]
    with pytest.raises(InvalidValueError, match="clock=sun"):
        run_bench(model, [arm], prepare_for(model), Plan(clock="sun"))
    assert arm.calls == []


def test_gains_are_relative_to_full_and_include_the_selector():
    full, fast = made_up("full", [100], "full"), made_up("fast", [19])
    assert baseline_of(fast, [full, fast]) is full
    line = cells(fast, [full, fast])
    assert line["prefill speed-up"] == "5.00"  # 100 / (19 + 1)
    assert line["end-to-end speed-up"] == "5.05"  # 101 / 20
    assert line["selector share %"] == "5.0"
    assert cells(fast, [fast])["prefill speed-up"] == "-"


def test_one_new_token_has_no_decoding_time():
    row = made_up("a", [1], new_tokens=1)
    assert cells(row, [row])["per token ms"] == "-"


def test_the_printed_table_fits_80_columns(rows):
    console = Console(file=io.StringIO(), width=80)
    bench_document.show_bench(rows, console)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert "Not shown at this width: vision ms" in " ".join(text.split())
    wide = Console(file=io.StringIO(), width=250)
    bench_document.show_bench(rows, wide)
    assert "Not shown" not in wide.file.getvalue()


def test_rows_survive_json(rows):
    for row in rows:
        assert Row.from_dict(json.loads(json.dumps(row.as_dict()))).as_dict() == row.as_dict()


def test_the_csv_has_every_stage(rows):
    lines = list(csv.DictReader(io.StringIO(csv_text(bench_columns(rows)))))
    assert len(lines) == len(rows)
    for name in (*STAGES, "ttft", "end_to_end"):
        assert float(lines[0][f"{name}_ms"]) <= float(lines[0][f"{name}_p90_ms"])
    assert lines[0]["prefill_gain"] == "1.00" or float(lines[0]["prefill_gain"]) > 0.9
    assert float(lines[2]["selector_share_of_unpruned_prefill"]) > 0


def test_figures_are_drawn(rows, tmp_path):
    bench_document.stage_bars(rows, tmp_path / "stages.png")
    one = [row for row in rows if row.batch_size == 1]
    scores = {"full": 0.9, "zoo @5": 0.8, "nobody": 0.1}
    shown = bench_document.score_against_latency(one, scores, "POPE", tmp_path / "a.png")
    assert shown == ["full", "zoo @5"]
    for name in ("stages.png", "a.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
