"""The registry behind selectors, tasks and model families."""

import sys
import types
from importlib.metadata import EntryPoint

import pytest

from zoo_exp import registry
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.registry import Registry, outline


class Thing:
    """A registered class."""


def installed(monkeypatch, *points):
    """Entry points of `things`, given as (name, target)."""
    found = [EntryPoint(name, value, "things") for name, value in points]
    monkeypatch.setattr(registry, "entry_points", lambda group: found if group == "things" else [])


@pytest.fixture
def module(monkeypatch):
    """An importable module `their_things` with a class of its own."""
    made = types.ModuleType("their_things")
    made.Theirs = type("Theirs", (), {"__module__": "their_things"})
    monkeypatch.setitem(sys.modules, "their_things", made)
    return made


def test_built_in_names_are_imported_on_demand(monkeypatch):
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    things = Registry("thing", "things", {"hls": "colorsys:rgb_to_hls"})
    assert things.names() == ["hls"]
    assert "hls" in things
    assert "colorsys" not in sys.modules
    assert things.load("hls")(0, 0, 0) == (0.0, 0.0, 0.0)
    assert "colorsys" in sys.modules


def test_an_unknown_name_gets_the_nearest_one_and_the_hint():
    things = Registry("thing", "things", {"hls": "colorsys:rgb_to_hls"}, "Look here.")
    with pytest.raises(UnknownNameError, match=r"unknown thing 'hlss'. Did you mean 'hls'\?.* Look here."):
        things.load("hlss")
    with pytest.raises(UnknownNameError):
        things.check("hlss")


def test_a_fallback_stands_for_every_unknown_name():
    things = Registry("thing", "things", {"hls": "colorsys:rgb_to_hls"}, fallback="colorsys:rgb_to_hsv")
    things.check("other")
    assert "other" not in things
    assert things.load("other").__name__ == "rgb_to_hsv"
    assert things.load("hls").__name__ == "rgb_to_hls"


def test_a_name_that_is_taken_is_refused():
    things = Registry("thing", "things", {"hls": "colorsys:rgb_to_hls"})
    things.add("mine", Thing)
    things.add("mine", Thing)  # a notebook cell that runs twice
    assert things.load("mine") is Thing
    with pytest.raises(
        InvalidValueError, match="a thing named 'mine' exists already: give Other another name"
    ):
        things.add("mine", type("Other", (), {}))
    with pytest.raises(InvalidValueError, match="a thing named 'hls' exists already"):
        things.add("hls", Thing)
    with pytest.raises(InvalidValueError, match="Thing has no name"):
        things.add("", Thing)


def test_installed_objects_are_found(monkeypatch, module):
    installed(monkeypatch, ("theirs", "their_things:Theirs"))
    things = Registry("thing", "things", {})
    assert things.names() == ["theirs"]
    assert things.load("theirs") is module.Theirs


def test_a_decorated_class_may_be_an_entry_point_too(monkeypatch, module):
    installed(monkeypatch, ("theirs", "their_things:Theirs"))
    things = Registry("thing", "things", {})
    things.add("theirs", module.Theirs)
    assert things.names() == ["theirs"]
    with pytest.raises(InvalidValueError, match="'theirs' exists already"):
        things.add("theirs", Thing)


def test_a_module_that_runs_as_a_program_is_the_installed_one(monkeypatch, module):
    installed(monkeypatch, ("theirs", "their_things:Theirs"))
    again = type("Theirs", (), {"__module__": "__main__"})
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", types.SimpleNamespace(name="their_things"))
    things = Registry("thing", "things", {})
    things.add("theirs", again)
    assert things.load("theirs") is again


def test_one_class_that_is_installed_twice_is_no_collision(monkeypatch, module):
    installed(monkeypatch, ("theirs", "their_things:Theirs"), ("theirs", "their_things:Theirs [extra]"))
    assert Registry("thing", "things", {}).names() == ["theirs"]


@pytest.mark.parametrize("second", ["theirs", "hls"])
def test_two_installed_objects_with_one_name_are_refused(monkeypatch, module, second):
    installed(monkeypatch, ("theirs", "their_things:Theirs"), (second, "elsewhere:Class"))
    things = Registry("thing", "things", {"hls": "colorsys:rgb_to_hls"})
    message = rf"the installed thing '{second}' \(elsewhere:Class\) has the name of .*: uninstall it"
    with pytest.raises(InvalidValueError, match=message):
        things.names()


@pytest.mark.parametrize("target", ["no_such_module:Class", "their_things:Missing"])
def test_an_installed_object_that_cannot_be_imported_is_named(monkeypatch, module, target):
    installed(monkeypatch, ("theirs", target))
    with pytest.raises(InvalidValueError, match=rf"installed thing 'theirs' \({target}\) cannot be imported"):
        Registry("thing", "things", {}).load("theirs")


def test_the_outline_of_a_class_is_read_without_importing_it():
    facts = outline("zoo_exp.registry:Registry", {"absent": 3})
    assert facts == {"absent": 3, "summary": "Objects of one kind by name."}
