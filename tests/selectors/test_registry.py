# ruff: noqa: D102 - the names say what the methods do
"""Finding selectors by name."""

import dataclasses
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch

from zoo_exp import selectors
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.selectors import registry
from zoo_exp.selectors.base import ScoreSelector


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_registered", {})
    monkeypatch.setattr(registry, "_installed", dict)


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
        assert selectors.get(info.name).needs == info.needs
        assert selectors.get(info.name).name == info.name


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
    class Point:
        def __init__(self, name):
            self.name, self.value = name, "their_package:First"

        def load(self):
            return First

    monkeypatch.setattr(registry, "_registered", {})
    registry._installed.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point("theirs")])
    assert isinstance(selectors.get("theirs"), First)
    registry._installed.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [Point("zoo")])
    with pytest.raises(
        InvalidValueError, match=r"installed selector 'zoo' \(their_package:First\) has a taken name"
    ):
        selectors.available()
    registry._installed.cache_clear()


def test_names_are_listed_without_heavy_imports():
    code = (
        "import sys; from zoo_exp import selectors; assert 'zoo' in selectors.available(); "
        "heavy = ('torch', 'numpy', 'lightning', 'wandb', 'datasets', 'transformers'); "
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_selectors_import_torch_alone():
    code = (
        "import sys; from zoo_exp import selectors; selectors.describe(); "
        "print([m for m in ('lightning', 'wandb', 'datasets', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
