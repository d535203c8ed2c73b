"""Values of config.json that no model can have are refused at once, and real configurations are not."""

import json

import pytest

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.config_values import MAY_BE_NULL, SIZES, check_values
from zoo_exp.rehearsal import slim

FAMILIES = ("llava15_7b", "llava_next_7b", "qwen25_vl_7b")
BAD = (None, "x", -1, 0, [], {}, 3.5, True, 10**12)
OTHERS = {
    "text_config": (None, "x", 3, []),
    "vision_config": (None, "x", 3, []),
    "image_token_id": (None, "x", -1, 10**6, 3.5, True, []),
    "image_token_index": (None, "x", -1, 10**6),
    "vision_feature_select_strategy": (None, "cls", 3, []),
    "vision_feature_layer": (None, 99, -26, 25, "x", [], [-2, 99], 1.5, True, {}),
    "projector_hidden_act": (None, "no_such_activation", 3),
    "image_grid_pinpoints": (None, [], "x", [[336]], [[336, 0]], [[336, 500]], [336, 672], 3),
}


@pytest.fixture(scope="module")
def configs(tmp_path_factory):
    """Configurations as `save_pretrained` writes them."""
    root = tmp_path_factory.mktemp("configs")
    folders = {name: slim.make(name, root / name, weights=False) for name in FAMILIES}
    return {name: json.loads((folder / "config.json").read_text()) for name, folder in folders.items()}


def refusal(raw):
    with pytest.raises(
        InvalidValueError, match=r"^model 'x': its config\.json has .*; allowed is "
    ) as caught:
        check_values(raw, "x")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", FAMILIES)
def test_real_configurations_pass(configs, name):
    check_values(configs[name], "x")
    flat = {**configs[name]["text_config"], **configs[name]}
    del flat["text_config"]  # as the first Qwen2.5-VL checkpoints
    check_values(flat, "x")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_size_of_every_part(configs, name):
    tried = 0
    for part in ("text_config", "vision_config", ""):
        settings = configs[name][part] if part else configs[name]
        for key in sorted(SIZES & settings.keys()):
            for value in BAD:
                if value is None and key in MAY_BE_NULL:
                    continue
                changed = {**settings, key: value}
                raw = {**configs[name], part: changed} if part else changed
                assert f"{part}.{key}".lstrip(".") in refusal(raw)
                tried += 1
    assert tried > 100


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("key", OTHERS)
def test_other_values(configs, name, key):
    for value in OTHERS[key]:
        assert key in refusal({**configs[name], key: value})


def test_heads_that_do_not_share_evenly(configs):
    raw = configs["llava15_7b"]
    text = {**raw["text_config"], "head_dim": None}
    assert "a divisor of hidden_size 64" in refusal(
        {**raw, "text_config": {**text, "num_attention_heads": 7}}
    )
    assert "num_key_value_heads: 3" in refusal({**raw, "text_config": {**text, "num_key_value_heads": 3}})


def test_blocks_with_full_attention(configs):
    raw = configs["qwen25_vl_7b"]
    for value in ([99], "x", None, [-1]):
        refusal({**raw, "vision_config": {**raw["vision_config"], "fullatt_block_indexes": value}})


def test_other_families_may_have_values_of_their_own(configs):
    raw = {
        "model_type": "gemma3n",
        "text_config": {"intermediate_size": [8, 16], "head_dim": None, "depth": None},
    }
    check_values({**raw, "vision_feature_layer": 99, "vision_config": {"image_size": [224, 224]}}, "x")
    assert "text_config.hidden_size" in refusal({**raw, "text_config": {"hidden_size": "x"}})
