# ruff: noqa: D102 - the names say what the methods do
"""Finding selectors by name."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import EntryPoint

import pytest
import torch

from zoo_exp import presets, selectors
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.selectors.base import ScoreSelector


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})


@dataclass(frozen=True)
class First(ScoreSelector):
    """The first tokens of the image.

    More text.
    """

    name = "first"
    paper = "none"

    def score(self, tokens, generator):
        return -torch.arange(tokens.count, device=tokens.device).float()


def test_the_paper_and_its_rivals_are_there():
    expected = "blind cdpruner cls_attention divprune feature_norm full mmtok random resize text_attention"
    expected += " uniform_grid visionzip vispruner zoo"
    assert set(expected.split()) <= set(selectors.available())
    assert selectors.available() == sorted(selectors.available())


def test_every_selector_describes_itself_in_a_line():
    for info in selectors.describe():
        assert info.paper, info.name
        assert info.summary.endswith("."), info.name
        assert len(info.summary) < 110, info.name
        built = selectors.get(info.name)
        assert (built.needs, built.paper, built.name) == (info.needs, info.paper, info.name)
        assert type(built).__doc__.startswith(info.summary)


def test_options_are_fields_that_identify_an_arm():
    options = dataclasses.asdict(selectors.get("zoo", fusion="sum"))
    assert options["fusion"] == "sum"
    assert options["n_directions"] == 64


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"unknown selector 'divprun'. Did you mean 'divprune'"):
        selectors.get("divprun")
    with pytest.raises(
        UnknownNameError, match=r"unknown option of selector random 'seed'. Available: newline"
    ):
        selectors.get("random", seed=1)


def test_a_value_of_the_wrong_kind_is_named():
    with pytest.raises(InvalidValueError, match="allowed are"):
        selectors.get("zoo", fusion=["sum"])


def test_an_own_selector_is_registered_by_decorator(clean_registry):
    selectors.register(First)
    assert "first" in selectors.available()
    info = next(i for i in selectors.describe() if i.name == "first")
    assert info == selectors.SelectorInfo("first", frozenset(), "none", "The first tokens of the image.")
    selectors.register(First)  # running a notebook cell again is no collision


def test_a_taken_name_is_refused(clean_registry):
    with pytest.raises(InvalidValueError, match="'zoo' exists already: give Clash another name"):
        selectors.register(type("Clash", (First,), {"name": "zoo"}))
    selectors.register(First)
    with pytest.raises(InvalidValueError, match="'first' exists already"):
        selectors.register(type("Other", (First,), {}))
    with pytest.raises(InvalidValueError, match="Nameless has no name"):
        selectors.register(type("Nameless", (First,), {"name": ""}))


def test_installed_selectors_are_entry_points(monkeypatch):
    point = EntryPoint("theirs", f"{__name__}:First", "zoo_exp.selectors")
    monkeypatch.setattr(selectors.REGISTRY, "_installed", {"theirs": point})
    monkeypatch.setitem(sys.modules, __name__, sys.modules[First.__module__])
    assert isinstance(selectors.get("theirs"), First)
    assert "theirs" in selectors.available()


def test_an_object_that_is_not_a_selector_is_refused(monkeypatch):
    monkeypatch.setattr(selectors.REGISTRY, "_added", {"odd": 3})
    with pytest.raises(InvalidValueError, match="selector odd is 3: it must be a dataclass"):
        selectors.get("odd")


def test_names_of_configuration_files_work_like_selectors():
    found = selectors.get("zoo_closed_form")
    assert (found.name, found.estimator, found.fusion) == ("zoo", "closed_form", "multiply")
    assert selectors.get("zoo_closed_form", fusion="sum").fusion == "sum"
    assert selectors.resolve("zoo_closed_form") == ("zoo", {"estimator": "closed_form", "fusion": "multiply"})
    with pytest.raises(UnknownNameError, match="Did you mean 'zoo_closed_form'"):
        selectors.get("zoo_closed_from")


@pytest.mark.parametrize("name", presets.names("selector"))
def test_the_packages_files_need_what_their_selector_needs(name):
    """`list selectors` relies on it."""
    (info,) = selectors.describe(selectors.resolve(name)[0])
    assert selectors.get(name).needs == info.needs


@pytest.mark.parametrize("name", sorted({*selectors.available()} & {*presets.names("selector")}))
def test_a_file_named_like_its_selector_changes_no_option(name):
    """The command line reads the file, Python the class: both must mean the same."""
    stored = presets.find("selector", name)
    assert stored["selector"] == name
    assert selectors.get(name, **stored.get("options", {})) == selectors.get(name)


def test_names_are_listed_without_heavy_imports():
    code = (
        "import sys; from zoo_exp import selectors; assert 'zoo' in selectors.available(); "
        "heavy = ('torch', 'numpy', 'lightning', 'wandb', 'datasets', 'transformers'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_selectors_are_described_without_torch_and_built_with_torch_alone():
    code = (
        "import sys; from zoo_exp import selectors; selectors.describe(); assert 'torch' not in sys.modules; "
        "[selectors.get(name) for name in selectors.available()]; "
        "print([m for m in ('lightning', 'wandb', 'datasets', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
