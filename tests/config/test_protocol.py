"""Pinned arms and budgets of every experiment."""

from itertools import groupby

import pytest

from zoo_exp.config import compose, folders
from zoo_exp.core.budget import Budget

FULL = ["full", "blind", "random x3"]
CONTROLS = ["zoo shuffled multiply x3", "zoo inverted multiply"]
"""Sensitivity on other tokens, and 1 - S: in every study of ZOO, beside diversity alone."""
MAIN = [
    *FULL,
    *("uniform_grid", "feature_norm", "fastv", "sparsevlm", "visionzip", "divprune", "mmtok"),
    *("zoo multiply x3", "zoo closed_form multiply", "zoo diagonal multiply"),
]
OFFICIAL = "zoo official_code x5"
ORIGINAL = ["zoo multiply original positions", "divprune original positions"]
"""Not the paper's: kept tokens keep their positions, which tell the tile that a token is from."""
GRID = [
    " ".join(filter(None, ("zoo", half, "multiply", f"n_directions={m}", f"step_size={h}")))
    for half in ("", "float16")
    for m in (1, 4, 16, 64)
    for h in (0.0001, 0.001, 0.01, 0.1)
]

ARMS = {
    # Poster Table 4: none, sum, multiply over sensitivity and diversity.
    "ablation_fusion": [*FULL, "zoo none", "zoo diversity", "zoo sum", "zoo multiply x3", *CONTROLS],
    # Supplement D.2 and Fig. A: POPE against latency and FLOPs.
    "efficiency": [
        "full", "random", "divprune", "fastv", "visionzip", "zoo multiply", "zoo closed_form multiply",
        "zoo diagonal multiply",
    ],
    # Poster Table 1 in small.
    "embedded_nine": [
        *FULL, "uniform_grid", "divprune", "visionzip", "zoo multiply x3", "zoo closed_form multiply",
        "zoo diagonal multiply", *CONTROLS,
    ],
    # Supplement D.3, Table D and Fig. B: layers of the encoder up to the one that the projector reads.
    "encoder_proxy": [
        *FULL, "zoo multiply n_directions=16",
        *(f"zoo multiply layer={n} n_directions=16" for n in (1, 2, 3, 4)),
        *(f"zoo multiply layer={n} n_directions=16 features" for n in (1, 2, 3, 4)),
        "zoo diversity", *(control.replace("multiply", "multiply n_directions=16") for control in CONTROLS),
    ],
    # Proposition 3.1: the mean over directions and its limit.
    "estimators": [
        *FULL, "zoo closed_form multiply", "zoo diagonal multiply",
        *(f"zoo multiply n_directions={m}" for m in (1, 4, 16, 64, 256, 1024)),
        "zoo first_order multiply", "zoo feature_norm multiply", "zoo diversity", *CONTROLS,
    ],
    # Poster, hyperparameters: m by h; C.2 fixes m = 64 and h = 0.01.
    "hyperparameters": ["full", "blind", *GRID, "zoo diversity", *CONTROLS],
    # Supplement C.2: low-rank factors of the projector; what the release runs is random, so five draws.
    "low_rank": [
        *FULL, "zoo multiply", *(f"zoo multiply low_rank rank={r}" for r in (64, 32, 16)),
        "zoo multiply low_rank_as_released rank=16 x5", "zoo diversity", *CONTROLS,
    ],
    # Supplement A and Fig. 2: rankings at the encoder and at the projector.
    "proxy_correlation": [
        "full", "zoo none", "zoo none layer=4 n_directions=16", "zoo none layer=1 n_directions=16",
        "zoo none layer=4 n_directions=16 features", "zoo none layer=1 n_directions=16 features",
        "zoo first_order none", "zoo closed_form none", "zoo feature_norm none",
    ],
    # Supplement E, Figs C to F.
    "qualitative": [
        "full", "text-to-vision attention", "vision-to-vision attention", "visionzip", "divprune", "zoo none",
        "zoo multiply", "zoo shuffled multiply", "zoo inverted multiply",
    ],
    # Supplement C.2: Qwen2.5-VL at 10 % and 20 %; 5 % is ours.
    "qwen25_vl_7b": [
        *FULL, "uniform_grid", "feature_norm", "divprune", "mmtok", "zoo multiply x3", "zoo closed_form multiply",
        "zoo diagonal multiply", *CONTROLS,
    ],
    "sanity": [*FULL, "uniform_grid", "resize", "feature_norm", "zoo multiply", "zoo diversity", *CONTROLS],
    # Poster Tables 1 and 2; supplement Tables B and C.
    "table1_llava15_7b": [*MAIN, *CONTROLS],
    "table2_llava15_13b": [*MAIN, *CONTROLS],
    # Poster Table 3, by supplement C.2.
    # The release of SparseVLM has no schedule for tiles: on LLaVA-NeXT the arm is left out.
    "table3_llava_next_7b": [
        *(name for name in MAIN[:-2] if name != "sparsevlm"), OFFICIAL, "zoo per image",
        *ORIGINAL, *MAIN[-2:], *CONTROLS,
    ],
    "variants": [
        "full", "blind", "zoo closed_form multiply", "paper x3", "official_code x3", "official_code in float32",
        "zoo diversity", *CONTROLS,
    ],
}  # fmt: skip
BUDGETS = {  # model: supplement C.2
    "embedded": ["48", "32", "16", "8", "4"],  # 192, 128 and 64 of 576 are the first three of 144; and below
    "embedded_next": [
        "8/tile",
        "4/tile",
        "2/tile",
    ],  # 8 of 144 is the paper's smallest budget per tile; and below
    "embedded_qwen": ["0.2", "0.1", "0.05"],
    "embedded_world1": ["48", "32", "16"],
    "llava15_7b": ["192", "128", "64"],  # 66.7, 77.8 and 88.9 % pruned
    "llava15_13b": ["192", "128", "64"],
    "llava_next_7b": ["128/tile", "64/tile", "32/tile"],  # "640, 320, 160" of five tiles, proportional below
    "qwen25_vl_7b": ["0.2", "0.1"],
}
OWN_BUDGETS = {
    "estimators": ["16", "8"], "hyperparameters": ["8"], "low_rank": ["16", "8"], "proxy_correlation": ["16"],
    "variants": ["16", "8"], "embedded_nine": ["48", "16"], "qwen25_vl_7b": ["0.2", "0.1", "0.05"],
}  # fmt: skip
MODELS = {name: name.partition("_")[2] for name in ARMS if name.startswith("table")} | {
    "qwen25_vl_7b": "qwen25_vl_7b"
}
PER_IMAGE = ("fastv", "sparsevlm", "zoo official_code", "zoo per image")
"""On LLaVA-NeXT: layers know no tiles, the release splits a total, and one arm lets the tiles compete."""
WITHOUT_CONTROLS = {"efficiency", "proxy_correlation"}
"""Studies of time, and of ranks: nothing is said there about what sensitivity gains."""


def rows(experiment):
    """Each entry of `arms` as the table calls it without the budget, with its repetitions and its budgets."""
    found = []
    for name, group in groupby(experiment.arms, key=lambda arm: arm.row.partition(" @")[0]):
        arms = list(group)
        seeds = len({arm.seed_index for arm in arms})
        budgets = [str(b) for b in dict.fromkeys(arm.budget for arm in arms) if b is not None]
        found.append((name if seeds == 1 else f"{name} x{seeds}", budgets))
    return found


def test_every_experiment_is_pinned():
    files = {path.stem for path in (folders.search_path([])[0] / "exp").glob("*.yaml")}
    assert files == set(ARMS)


@pytest.mark.parametrize("name", ARMS)
def test_arms_and_budgets(name):
    """The model's protocol (`low_rank rank=128` on LLaVA-NeXT) is in the names there."""
    model = MODELS.get(name, "embedded")
    found = rows(compose([f"+exp={name}"]))
    assert [row.replace(" low_rank rank=128", "") for row, _ in found] == ARMS[name]
    expected = OWN_BUDGETS.get(name, BUDGETS[model])
    for row, budgets in found:
        if row in ("full", "blind"):
            assert budgets == []
        elif model == "llava_next_7b" and row.startswith(PER_IMAGE):
            assert budgets == ["640", "320", "160"], row
        elif row == "sparsevlm" and model == "embedded":  # its schedules end at 64 of 576
            assert budgets == ["48", "32", "16"]
        else:
            assert budgets == expected, row


@pytest.mark.parametrize("model", BUDGETS)
def test_budgets_come_with_the_model(model):
    for name in ("ablation_fusion", "encoder_proxy"):  # Tables 4 and D, on any model
        for row, budgets in rows(compose([f"+exp={name}", f"model={model}"])):
            expected = BUDGETS[model] if model != "qwen25_vl_7b" else ["0.333", *BUDGETS[model]]
            assert budgets == ([] if row in ("full", "blind") else expected)


def test_the_papers_arms_on_llava_next_have_its_projector():
    """Supplement C.2: a rank of 128 for the sensitivity on LLaVA-NeXT, none elsewhere."""
    for name in ("table3_llava_next_7b", "ablation_fusion"):
        arms = compose([f"+exp={name}", "model=llava_next_7b"]).arms
        paper = [a for a in arms if a.selector == "zoo" and "variant" not in a.options]
        measured = [a for a in paper if a.options["fusion"] != "diversity"]
        assert measured
        assert {(a.options["projector"], a.options["rank"]) for a in measured} == {("low_rank", 128)}
    official = [a for a in compose(["+exp=table3_llava_next_7b"]).arms if "variant" in a.options]
    assert {a.options["projector"] for a in official} == {"low_rank_as_released"}
    assert {a.options["factor_seed"] for a in official} == {0, 1, 2, 3, 4}
    assert {(a.options["dtype"], a.options["newline"]) for a in official} == {("float16", "as_released")}
    for name in ("table1_llava15_7b", "table2_llava15_13b"):
        assert not any("projector" in a.options for a in compose([f"+exp={name}"]).arms)


def test_an_arm_that_is_left_out_is_said(capsys, monkeypatch):
    from zoo_exp import cli
    from zoo_exp.evaluation import sources

    why = "sparsevlm is left out on llava_next_7b: the release has no schedule for tiles"
    experiment = compose(["+exp=table3_llava_next_7b", "data=default"])
    assert experiment.left_out == (why,)
    assert compose(["+exp=table3_llava_next_7b", "model=embedded"]).left_out == ()
    assert cli.main(["show", "exp=table3_llava_next_7b"]) == 0
    assert f"# {why}\n" in capsys.readouterr().out
    said = []
    monkeypatch.setattr(sources, "_check_model", lambda model: False)
    monkeypatch.setattr(sources, "_check_data", lambda experiment: False)
    sources.check(experiment, said.append)
    assert said == [why]


@pytest.mark.parametrize("name", sorted(set(ARMS) - WITHOUT_CONTROLS))
def test_every_study_has_controls_at_every_budget(name):
    arms = compose([f"+exp={name}"]).arms
    plain = [a for a in arms if a.selector == "zoo" and a.options.get("fusion") == "multiply"]
    main = {a.budget for a in plain if not a.row.startswith(PER_IMAGE)}
    for control in ("shuffled", "inverted"):
        assert {a.budget for a in arms if a.options.get("control") == control} == main
    alone = [a for a in arms if a.selector == "divprune" or a.options.get("fusion") == "diversity"]
    assert {a.budget for a in alone} == main


@pytest.mark.parametrize("name", ["table1_llava15_7b", "table2_llava15_13b", "table3_llava_next_7b"])
def test_tables_run_on_the_embedded_model(name):
    """There a raster is one tile: the reading per image is the same arm, and is left out."""
    found = [row for row, _ in rows(compose([f"+exp={name}", "model=embedded"]))]
    assert [row for row in found if row != "sparsevlm"] == [
        row for row in ARMS[name] if row not in ("zoo per image", "sparsevlm")
    ]
    assert "sparsevlm" in found


FAMILY = {
    "ablation_fusion": "embedded_next", "encoder_proxy": "embedded_next", "table3_llava_next_7b": "embedded_next",
    "qwen25_vl_7b": "embedded_qwen",
}  # fmt: skip
"""The paper has Tables 3, 4 and D on LLaVA-NeXT; each study here runs on an embedded model of the paper's family."""


@pytest.mark.parametrize("name", ARMS)
def test_the_command_runs_on_an_embedded_model_of_the_papers_family(name):
    file = folders.search_path([])[0] / "exp" / f"{name}.yaml"
    experiment = compose(file.read_text().splitlines()[0].split()[5:])
    assert experiment.model.path == FAMILY.get(name, "embedded")
    assert (experiment.limit or 0) >= 100, "fewer units give intervals that are too narrow"
    views = {"embedded": "world2_", "embedded_next": "world2_tiles_", "embedded_qwen": "world2_sizes_"}
    assert all(task.startswith(views[experiment.model.path]) for task in experiment.tasks)


WITHOUT_CLAIMS = {"efficiency", "proxy_correlation", "qualitative"}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        *((name, None) for name in ARMS),
        *((name, "llava_next_7b") for name in ("ablation_fusion", "encoder_proxy")),
    ],
)
def test_claims_name_rows_and_have_the_controls(name, model):
    experiment = compose([f"+exp={name}", *([f"model={model}"] if model else [])])
    names = {arm.row.removesuffix(f" @{arm.budget}") for arm in experiment.arms}
    assert {c.arm for c in experiment.claims} | {c.against for c in experiment.claims} <= names
    if name in WITHOUT_CLAIMS:
        assert not experiment.claims
        return
    for control in ("shuffled", "inverted"):
        assert any(control in claim.against for claim in experiment.claims)
    assert any(c.against in ("divprune", "zoo diversity") for c in experiment.claims)


@pytest.mark.parametrize(
    "model", sorted(p.stem for p in (folders.search_path([])[0] / "model").glob("*.yaml"))
)
def test_every_model_declares_budgets_per_image(model):
    """For layer selectors, which know no tiles; five tiles make the total."""
    path = ["model.path=somewhere", "model.family=llava"] if model == "hub" else []
    config = compose(["selector=full", f"model={model}", *path]).model
    own, shared = ([Budget.parse(b) for b in budgets] for budgets in (config.budgets, config.image_budgets))
    tiled = [b for b in own if b.per == "tile"]
    assert [b.count for b in shared] == ([5 * b.count for b in tiled] if tiled else [b.count for b in own])
    assert {b.per for b in shared} == {"image"}
    if tiled:
        arms = compose(["+exp=efficiency", f"model={model}"]).arms
        assert {a.budget.per for a in arms if a.selector == "fastv"} == {"image"}
        assert {str(a.budget) for a in arms if a.selector == "zoo"} == {str(b) for b in own}
