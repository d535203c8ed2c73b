"""The feature cache: stored tensors are read back exactly, damage is detected, and the encoder does not run."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation.feature_cache import FeatureCache, image_hashes
from zoo_exp.models.families import adapter_for
from zoo_exp.models.tensor_store import TensorStore
from zoo_exp.models.tiny import tiny_inputs, tiny_model

NEEDS = frozenset({"features", "projector", "cls_attention", "keys"})
SHAPES = {
    "llava": (((56, 56),), ((56, 56),)),
    "llava_next": (((56, 112),), ((112, 112),)),
    "qwen2_5_vl": (((56, 56),), ((84, 56),)),
}


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(5, 3, generator=generator).to(dtype),
        "empty": torch.zeros(0, 4),
        "n": torch.arange(7),
    }


def entries(store):
    return sorted(store.folder.glob("*/*.safetensors"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_read_back_bit_by_bit(tmp_path, dtype):
    store = TensorStore(tmp_path)
    assert store.get("k") is None
    store.put("k", tensors(dtype), {"grid": [2, 3]})
    found, facts = TensorStore(tmp_path).get("k")  # as another process would
    assert facts == {"grid": [2, 3]}
    assert found.keys() == tensors().keys()
    for name, value in tensors(dtype).items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


def test_a_reader_cannot_change_the_file(tmp_path):
    store = TensorStore(tmp_path)
    store.put("k", tensors(), {})
    store.get("k")[0]["a"].zero_()
    assert torch.equal(store.get("k")[0]["a"], tensors()["a"])


@settings(max_examples=40, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), cut=st.booleans())
def test_damage_anywhere_is_named_and_repaired(tmp_path_factory, place, cut):
    store = TensorStore(tmp_path_factory.mktemp("store"))
    store.put("k", tensors(), {})
    (path,) = entries(store)
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    if cut:
        del data[at:]
    else:
        data[at] ^= 0xFF
    path.write_bytes(bytes(data))
    assert store.get("k") is None
    assert entries(store) == []
    store.put("k", tensors(), {})
    assert torch.equal(store.get("k")[0]["n"], tensors()["n"])


def test_damage_is_logged(tmp_path, caplog):
    store = TensorStore(tmp_path)
    store.put("k", tensors(), {})
    (path,) = entries(store)
    path.write_bytes(b"")
    assert store.get("k") is None
    assert f"{path} is damaged" in caplog.text


def test_entries_that_were_renamed_are_not_taken_for_each_other(tmp_path, caplog):
    store = TensorStore(tmp_path)
    for key in ("k", "other"):
        store.put(key, {"a": torch.full((3,), float(len(key)))}, {})
    store._path("k").replace(store._path("other"))
    assert store.get("other") is None
    assert "the entry of another key" in caplog.text
    assert entries(store) == []


@pytest.mark.parametrize("kind", ["folder", "loop", "text", "empty file"])
def test_what_stands_in_the_place_of_an_entry_counts_as_missing(tmp_path, caplog, kind):
    store = TensorStore(tmp_path)
    path = store._path("k")
    path.parent.mkdir(parents=True)
    if kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.write_text("text" * (kind == "text"))
    assert store.get("k") is None
    assert kind == "loop" or f"{path} is damaged" in caplog.text
    if kind != "folder":
        store.put("k", tensors(), {})
        assert store.get("k") is not None


@pytest.mark.parametrize("limit", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_limit_that_is_no_size_is_refused(tmp_path, limit):
    with pytest.raises(InvalidValueError, match="limit_gb="):
        TensorStore(tmp_path, limit)


def test_tensors_that_share_memory_are_stored(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    store = TensorStore(tmp_path)
    store.put("k", {"whole": whole, "turned": whole.T, "part": whole[1:]}, {})
    found = store.get("k")[0]
    assert torch.equal(found["turned"], whole.T)
    assert torch.equal(found["part"], whole[1:])


def test_an_entry_that_fits_no_image_is_encoded_again(tmp_path, caplog):
    """Whole, with its key and checksum, and yet not what the cache wrote."""
    model = tiny_model("llava")
    adapter, store = adapter_for(model, None), TensorStore(tmp_path)
    inputs = tiny_inputs(model, SHAPES["llava"])
    FeatureCache(adapter, store, "model").encode(inputs, frozenset())
    for name in image_hashes(inputs):
        store.put(f"model//{name}", {"projected": torch.zeros(2, 2), "tile": torch.zeros(5)}, {})
    cache = FeatureCache(adapter, store, "model")
    found = cache.encode(inputs, frozenset())
    assert (cache.hits, cache.misses) == (0, 2)
    assert torch.equal(found[0][0].projected, adapter.encode(inputs, frozenset())[0][0].projected)
    assert "cannot be used" in caplog.text


def test_the_folder_stays_below_its_limit_and_recently_used_entries_stay(tmp_path):
    import os

    one = {"a": torch.zeros(1000)}
    store = TensorStore(tmp_path, limit_gb=10 * 4.3e-6)
    for number in range(40):
        store.put(str(number), one, {})
        for age, path in enumerate(entries(store)):  # file times are too coarse to order what a test writes
            os.utime(path, (1000 + age, 1000 + age)) if path != store._path("0") else os.utime(path)
    assert sum(path.stat().st_size for path in entries(store)) <= store.limit
    assert store.get("0") is not None
    assert len(entries(store)) >= 5


def test_an_entry_larger_than_the_limit_is_not_stored(tmp_path):
    store = TensorStore(tmp_path, limit_gb=1e-6)
    store.put("k", {"a": torch.zeros(1000)}, {})
    assert store.get("k") is None


@pytest.mark.parametrize("family", SHAPES)
def test_a_known_image_is_not_encoded_again(family, tmp_path, monkeypatch):
    model = tiny_model(family)
    adapter = adapter_for(model, None)
    inputs = tiny_inputs(model, SHAPES[family])
    needs = frozenset({"features", "projector"}) if family == "qwen2_5_vl" else NEEDS
    expected = adapter.encode(inputs, needs)
    store = TensorStore(tmp_path)
    FeatureCache(adapter, store, "model").encode(inputs, needs)
    monkeypatch.setattr(adapter, "encode", None)
    cache = FeatureCache(adapter, store, "model")
    found = cache.encode(inputs, needs)
    assert (cache.hits, cache.misses) == (2, 0)
    for row, other in zip(found, expected, strict=True):
        for image, reference in zip(row, other, strict=True):
            assert image.grid == reference.grid
            for name in ("projected", "features", "tile", "cls_attention", "keys"):
                left, right = getattr(image, name), getattr(reference, name)
                assert (left is None) == (right is None), name
                assert left is None or torch.equal(left, right)
            assert image.has("projector") == reference.has("projector")


def test_weights_needs_and_pixels_identify_an_entry(tmp_path):
    model = tiny_model("llava")
    adapter, store = adapter_for(model, None), TensorStore(tmp_path)
    inputs = tiny_inputs(model, SHAPES["llava"])
    for model_id, needs in (("a", frozenset()), ("b", frozenset()), ("b", frozenset({"features"}))):
        cache = FeatureCache(adapter, store, model_id)
        cache.encode(inputs, needs)
        assert cache.misses == 2
    first, second = image_hashes(inputs)
    assert first != second
    assert image_hashes({**inputs, "pixel_values": inputs["pixel_values"] + 1})[0] != first


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl"])
def test_a_smaller_image_is_encoded_again_and_the_rest_is_read(family, tmp_path):
    """`resize` needs the pixels, which every batch brings, and no features of the whole image."""
    model = tiny_model(family)
    adapter, store = adapter_for(model, None), TensorStore(tmp_path)
    inputs = tiny_inputs(model, SHAPES[family])
    needs = frozenset({"features", "resize"})
    FeatureCache(adapter, store, "model").encode(inputs, frozenset({"features"}))
    expected = adapter.encode(inputs, needs)
    cache = FeatureCache(adapter, store, "model")
    found = cache.encode(inputs, needs)
    assert (cache.hits, cache.misses, cache.reasons) == (2, 0, set())
    for (image,), (reference,) in zip(found, expected, strict=True):
        assert torch.equal(image.features, reference.features)
        assert torch.equal(image.pixels_encoder((1, 2)), reference.pixels_encoder((1, 2)))
    assert not torch.equal(found[0][0].pixels_encoder((1, 2)), found[1][0].pixels_encoder((1, 2)))


def test_tiled_images_cannot_be_resized(tmp_path):
    model = tiny_model("llava_next")
    cache = FeatureCache(adapter_for(model, None), TensorStore(tmp_path), "model")
    for read in (0, 2):
        found = cache.encode(tiny_inputs(model, SHAPES["llava_next"]), frozenset({"resize"}))
        assert cache.hits == read
        assert all(image.pixels_encoder is None for row in found for image in row)


def test_a_batch_with_a_new_image_is_encoded_as_a_whole(tmp_path):
    """Bits of an image may depend on the others of its batch: nothing is mixed that a run would not mix."""
    model = tiny_model("llava")
    adapter, store = adapter_for(model, None), TensorStore(tmp_path)
    inputs = tiny_inputs(model, SHAPES["llava"])
    FeatureCache(adapter, store, "model").encode({k: v[:1] for k, v in inputs.items()}, frozenset())
    (old,) = entries(store)
    before = old.read_bytes()
    cache = FeatureCache(adapter, store, "model")
    cache.encode(inputs, frozenset())
    assert (cache.hits, cache.misses, len(entries(store))) == (0, 2, 2)
    assert "a batch with a new image is encoded as a whole" in cache.summary()
    assert old.read_bytes() == before


def test_needs_that_are_not_stored_run_the_encoder(tmp_path):
    model = tiny_model("llava")
    adapter, store = adapter_for(model, None), TensorStore(tmp_path)
    cache = FeatureCache(adapter, store, "model")
    found = cache.encode(tiny_inputs(model, SHAPES["llava"]), frozenset({"hidden"}))
    assert found[0][0].hidden
    assert entries(store) == []
