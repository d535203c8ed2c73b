"""Figures are drawn if their data exist, and show the right numbers."""

import json
import re
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from zoo_exp.report import figures_results
from zoo_exp.report.figure_style import COLOURS, base_label, line_style, series
from zoo_exp.report.figures_results import budget_curve, cost, heat_map, heat_tables, layer_curve
from zoo_exp.report.figures_tokens import correlations, effective_ranks, positions, shares
from zoo_exp.report.mask_items import MaskArm, MaskItem


def average(arm, selector="zoo", options=None, budget_of="16", retained=90.0, **more):
    row = {"arm": arm, "row": arm, "task": "average", "selector": selector}
    row |= {"options": json.dumps(options or {}), "layer_tokens": np.nan}
    row |= {
        "budget": budget_of,
        "retained": retained,
        "retained_low": retained - 1,
        "retained_high": retained + 2,
    }
    row |= {
        "kept_tokens": float(budget_of or 144),
        "select_ms": 1.0,
        "prefill_decode_ms": 2.0,
        "flops_tflop": 0.001,
    }
    return row | more


@pytest.fixture
def two_budgets():
    rows = [
        average("full", "full", budget_of=None, retained=100.0),
        average("blind", "blind", budget_of=None),
    ]
    rows += [average(f"zoo multiply @{k}", budget_of=str(k)) for k in (48, 16)]
    return pd.DataFrame(
        rows
        + [
            average(f"random @{k} (3 seeds)", "random", budget_of=str(k), row=f"random @{k}")
            for k in (48, 16)
        ]
    )


def test_series_join_the_budgets_of_one_selector(two_budgets):
    found = series(two_budgets)
    assert [line.label for line in found] == ["zoo multiply", "random"]
    assert found[0].rows["measured_tokens"].tolist() == [16.0, 48.0]
    assert base_label("a @ b @16", "16") == "a @ b"


def test_series_keep_arms_apart_that_differ_beside_their_options(two_budgets):
    """Positions and the scope of a budget are no options of the selector, and still another method."""
    others = ["zoo multiply original positions", "zoo per image"]
    more = [average(f"{name} @{k}", budget_of=str(k)) for name in others for k in (48, 16)]
    found = series(pd.concat([two_budgets, pd.DataFrame(more)]))
    assert [line.label for line in found] == ["zoo multiply", "random", *others]
    assert all(line.rows["measured_tokens"].tolist() == [16.0, 48.0] for line in found)


def test_a_curve_of_a_layer_selector_is_drawn_over_the_mean_of_its_layers(two_budgets):
    mine = two_budgets.assign(layer_tokens=two_budgets["kept_tokens"] / 2, kept_tokens=144.0)
    assert series(mine)[0].rows["measured_tokens"].tolist() == [8.0, 24.0]


def test_styles_of_32_series_differ():
    styles = [tuple(line_style(number).values()) for number in range(32)]
    assert len(set(styles)) == 32
    assert len(set(COLOURS)) == len(COLOURS)


@pytest.mark.parametrize("draw", [budget_curve, cost])
def test_a_curve_needs_a_retained_average(two_budgets, tmp_path, draw):
    path = tmp_path / "a.b" / "figure_of.this"
    assert not draw(two_budgets.assign(retained=np.nan), tmp_path / "none")
    assert not list(tmp_path.glob("none*"))
    assert draw(two_budgets, tmp_path / "figure")
    assert draw(two_budgets, tmp_path / "figure", narrow=True)
    assert {p.name for p in tmp_path.glob("figure*")} == {"figure.svg", "figure.png", "figure_narrow.svg"}
    wide, narrow = ((tmp_path / f"figure{end}.svg").read_text() for end in ("", "_narrow"))
    assert all("prefers-color-scheme: dark" in text for text in (wide, narrow))
    assert width_of(narrow) <= 390 * 0.75 < width_of(wide)  # points; a phone has 390 pixels
    assert not path.parent.exists()
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 400


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize(
    "budgets",
    [
        (16, 48),
        (576, 577, 578),
        (10, 20, 34, 40, 43, 63, 173, 181, 196),
        (4, 8, 16, 48, 55, 60, 64, 576, 577),
        (1, 9, 10, 11, 99, 100, 101, 999, 1000, 1001, 2880),
    ],
)
def test_labels_of_the_budget_axis_never_overlap(narrow, tmp_path, monkeypatch, budgets):
    drawn = []
    monkeypatch.setattr(figures_results, "add_legend", lambda axes, narrow: drawn.append(axes))
    frame = pd.DataFrame([average(f"zoo @{k}", budget_of=str(k)) for k in budgets])
    assert budget_curve(frame, tmp_path / "figure", narrow=narrow)
    labels = [label for label in drawn[0].get_xticklabels() if label.get_text()]
    boxes = sorted((label.get_window_extent() for label in labels), key=lambda box: box.x0)
    assert all(one.x1 < other.x0 for one, other in pairwise(boxes))
    assert labels


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("draw", [budget_curve, cost])
def test_a_legend_tells_arms_apart_that_differ_at_their_ends_only(narrow, draw, tmp_path, monkeypatch):
    drawn = []
    real = figures_results.add_legend
    monkeypatch.setattr(
        figures_results, "add_legend", lambda axes, narrow: (real(axes, narrow), drawn.append(axes))
    )
    names = [
        f"zoo multiply layer={n} n_directions=16{end}" for n in range(8) for end in ("", " response=features")
    ]
    frame = pd.DataFrame([average(f"{name} @{k}", budget_of=str(k)) for name in names for k in (16, 48)])
    assert draw(frame, tmp_path / "figure", narrow=narrow)
    owner = drawn[0].figure
    legend = owner.legends[0] if narrow else drawn[0].get_legend()
    assert [" ".join(text.get_text().split()) for text in legend.get_texts()] == names
    box = legend.get_window_extent()
    assert owner.bbox.x0 <= box.x0
    assert box.x1 <= owner.bbox.x1
    assert owner.bbox.y0 <= box.y0
    assert box.y1 <= owner.bbox.y1


def width_of(svg):
    return float(re.search(r'width="([\d.]+)pt"', svg)[1])


def test_one_budget_has_no_curve(two_budgets, tmp_path):
    assert not budget_curve(two_budgets[two_budgets["budget"] != "48"], tmp_path / "x")


def test_times_or_flops_are_enough_for_the_cost(two_budgets, tmp_path):
    assert cost(two_budgets.assign(prefill_decode_ms=np.nan), tmp_path / "x")
    assert not cost(two_budgets.assign(prefill_decode_ms=np.nan, flops_tflop=np.nan), tmp_path / "y")


def test_the_heat_map_holds_every_value_once(tmp_path):
    rows = [
        average(f"{m} {h} {d}", options={"n_directions": m, "step_size": h, **d}, retained=m + h)
        for m in (1, 4)
        for h in (0.01, 0.1)
        for d in ({}, {"dtype": "float16"})
        if not (d and m == 4)
    ]
    tables = heat_tables(pd.DataFrame(rows))
    assert set(tables) == {"16 tokens, float32", "16 tokens, float16"}
    assert tables["16 tokens, float32"].loc[4, 0.1] == 4.1
    assert tables["16 tokens, float16"].shape == (1, 2)
    assert heat_map(pd.DataFrame(rows), tmp_path / "x")
    assert not heat_map(pd.DataFrame(rows[:2]), tmp_path / "y")


def test_the_layer_curve_takes_the_projector_that_differs_in_the_layer_only(tmp_path):
    rows = [average(f"layer {n}", options={"layer": n, "n_directions": 16}) for n in (1, 2, 3)]
    assert layer_curve(pd.DataFrame([*rows, average("p", options={"n_directions": 16})]), tmp_path / "x")
    assert not layer_curve(pd.DataFrame(rows[:1]), tmp_path / "y")


def test_the_layer_curve_keeps_two_readings_of_a_layer_apart(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        figures_results, "error_bars", lambda axes, x, rows, number, label: drawn.append((label, len(rows)))
    )
    rows = [
        average(f"layer {n} {where}", options={"layer": n, **where}, budget_of=budget)
        for budget in ("16", "32")
        for n in (1, 2, 3)
        for where in ({}, {"response": "features"})
        if n < 3 or not where
    ]
    rows += [
        average("p", options={}, budget_of="16"),
        average("c", options={"control": "inverted"}, budget_of="16"),
    ]
    assert layer_curve(pd.DataFrame(rows), tmp_path / "x")
    assert drawn == [
        ("16 tokens", 4),  # with the projector's own
        ("16 tokens, projector's input", 3),
        ("32 tokens", 3),
        ("32 tokens, projector's input", 2),
    ]


def tokens_frame():
    rows = []
    generator = np.random.default_rng(0)
    for n in range(12):
        for arm, value in (("zoo @16", 1.0), ("zoo @48", 1.0), ("norm @16", generator.uniform(0, 1))):
            rows.append(
                {
                    "task": "t",
                    "sample_id": str(n),
                    "image": 0,
                    "arm": arm,
                    "budget": arm[-2:],
                    "reference": "zoo @16",
                }
                | {
                    "spearman": value,
                    "spearman_above": value,
                    "overlap": value,
                    "effective_rank": 5.0 + value,
                }
                | {"kept_tokens": 16.0, "n_visual": 144.0, "select_ms": 1.0, "selector": "zoo", "options": {}}
            )
    return pd.DataFrame(rows)


def test_densities_leave_out_the_reference_at_any_budget(tmp_path):
    assert correlations(tokens_frame(), tmp_path / "x")
    frame = tokens_frame()
    assert not correlations(frame[frame["arm"].str.startswith("zoo")], tmp_path / "y")
    assert not correlations(frame.head(0), tmp_path / "z")


def test_effective_ranks_are_drawn_where_there_are_tokens(tmp_path):
    assert effective_ranks(tokens_frame(), tmp_path / "x")
    assert not effective_ranks(tokens_frame().head(0), tmp_path / "y")


def test_positions_are_shares_of_images(tmp_path):
    image, full = Image.new("RGB", (8, 8)), MaskArm("full", (0, 1, 2, 3), "", 1.0)
    items = [
        MaskItem("t", str(n), "q", "r", (2, 2), image, (MaskArm("a", kept, "", 1.0), full))
        for n, kept in enumerate([(0,), (0,), (0,), (3,)])
    ]
    found = shares(items, "a")
    np.testing.assert_allclose(found, [[0.75, 0], [0, 0.25]])
    known = {arm: shares(items, arm) for arm in ("full", "a")}
    assert positions(known, len(items), tmp_path / "x")
    assert not positions({"full": known["full"]}, len(items), tmp_path / "y")
    assert shares([*items, MaskItem("t", "9", "q", "r", (1, 4), image, items[0].arms)], "a") is None
