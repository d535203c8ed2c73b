"""Kernels and calibrations on disk: the same bits, found again by the weights alone, never in a run's way."""

import dataclasses
import warnings

import pytest
import torch

from zoo_exp import selectors
from zoo_exp.core.closed_form import PatchMerger, closed_form
from zoo_exp.core.normed import Norm, NormedMLP
from zoo_exp.core.sensitivity import MLP
from zoo_exp.models import calibration, kernel_store
from zoo_exp.models.families import adapter_for
from zoo_exp.models.kernel_store import kept_on_disk
from zoo_exp.models.tiny import tiny_inputs, tiny_model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache folder of the user, in which projectors of any size are kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(kernel_store, "SMALLEST", 0)
    return tmp_path / "zoo_exp" / "projectors"


def gen(seed=0):
    return torch.Generator().manual_seed(seed)


def mlp_of(seed=0):
    g = gen(seed)
    return MLP(
        torch.randn(20, 12, generator=g), torch.zeros(20), torch.randn(16, 20, generator=g), torch.zeros(16)
    )


def merger_of(seed=0):
    return PatchMerger(torch.rand(6, generator=gen(seed)) + 0.5, mlp_of(seed))


def normed_of(seed=0):
    norm = Norm(torch.rand(6, generator=gen(seed)) + 0.5, None, 1e-6, centred=True)
    plain = mlp_of(seed)
    return NormedMLP(plain.w1, plain.b1, norm, torch.nn.functional.silu, plain.w2, plain.b2)


def files(folder):
    return sorted(folder.glob("*/*.safetensors"))


MAKES = [mlp_of, merger_of, normed_of]


@pytest.mark.parametrize("make", MAKES)
def test_the_next_process_reads_the_same_bits(make, cache, monkeypatch):
    x = torch.randn(9, 12, generator=gen(5))
    first = closed_form(x, kept_on_disk(make()))
    assert torch.equal(first, closed_form(x, make()))  # one that is not kept
    assert len(files(cache)) == 1
    for name in ("closed_form._mlp_kernel", "closed_form._merger_kernels", "normed.NormedMLP._constants"):
        monkeypatch.setattr(f"zoo_exp.core.{name}", lambda *_: pytest.fail("computed again"))
    assert torch.equal(first, closed_form(x, kept_on_disk(make())))


@pytest.mark.parametrize("make", MAKES)
def test_other_weights_have_other_files(make, cache):
    x = torch.randn(9, 12, generator=gen(5))
    one, other = make(0), make(1)
    assert not torch.equal(closed_form(x, kept_on_disk(one)), closed_form(x, kept_on_disk(other)))
    assert len(files(cache)) == 2
    assert torch.equal(closed_form(x, kept_on_disk(make(1))), closed_form(x, make(1)))


def test_one_changed_weight_one_more_thread_or_version_is_another_identity(monkeypatch):
    base = kernel_store.identity(mlp_of())
    w1 = mlp_of().w1
    w1[3, 4] = torch.nextafter(w1[3, 4], torch.tensor(9.0))
    assert kernel_store.identity(dataclasses.replace(mlp_of(), w1=w1)) != base
    assert kernel_store.identity(mlp_of()) == base
    monkeypatch.setattr("zoo_exp.__version__", "0")
    assert kernel_store.identity(mlp_of()) != base


def test_an_unreadable_file_costs_time_only(cache, caplog):
    x = torch.randn(9, 12, generator=gen(5))
    first = closed_form(x, kept_on_disk(mlp_of()))
    (path,) = files(cache)
    content = path.read_bytes()
    for damaged in (content[:-1] + bytes([content[-1] ^ 1]), content[: len(content) // 2], b""):
        path.write_bytes(damaged)
        assert torch.equal(closed_form(x, kept_on_disk(mlp_of())), first)
        assert "is damaged" in caplog.text
        assert path.read_bytes() == content  # written again
        caplog.clear()


@pytest.mark.parametrize("place", ["a file", "relative", "no home"])
def test_without_a_folder_it_is_computed(place, cache, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file") if place == "a file" else "here")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("pathlib.Path.home", lambda: pytest.fail("home") if place == "a file" else no_home())
    x = torch.randn(9, 12, generator=gen(5))
    assert torch.equal(closed_form(x, kept_on_disk(mlp_of())), closed_form(x, mlp_of()))
    assert not (tmp_path / "here").exists()


def no_home():
    raise RuntimeError("Could not determine home directory.")


def test_the_folder_is_bounded(cache, monkeypatch):
    x = torch.randn(9, 12, generator=gen(5))
    closed_form(x, kept_on_disk(mlp_of()))
    monkeypatch.setattr(kernel_store, "LIMIT_GB", 2.5 * files(cache)[0].stat().st_size / 1e9)
    for seed in range(1, 6):
        closed_form(x, kept_on_disk(mlp_of(seed)))
    assert len(files(cache)) == 2


def test_small_projectors_leave_no_file(cache, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parents[1]))
    closed_form(torch.randn(9, 12, generator=gen(5)), kept_on_disk(mlp_of()))
    assert not cache.exists()


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_the_calibration_is_made_once_per_weights(family, cache, monkeypatch):
    made = []
    features = calibration._made_up_features
    monkeypatch.setattr(calibration, "_made_up_features", lambda adapter: made.append(1) or features(adapter))
    needs = selectors.get("zoo", estimator="diagonal").captures

    def start(model):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so narrow a random projector may fail the calibration
            adapter_for(model).encode(tiny_inputs(model), needs)

    for _ in range(2):
        start(tiny_model(family))
    assert len(made) == 1
    changed = tiny_model(family)
    encoder = next(p for name, p in changed.named_parameters() if "vision" in name or "visual" in name)
    with torch.no_grad():
        encoder.view(-1)[0] += 1
    start(changed)
    assert len(made) == 2
