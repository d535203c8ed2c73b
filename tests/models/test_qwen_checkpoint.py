"""A Qwen2.5-VL checkpoint from disk, processor included, on a machine without torchvision."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoProcessor, PreTrainedTokenizerFast, Qwen2VLImageProcessor
from transformers.utils import is_torchvision_available

import zoo_exp
from zoo_exp.errors import MissingFileError
from zoo_exp.models.tiny import tiny_model

SPECIAL = [
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
IDS = {"vision_start_token_id": 2, "vision_end_token_id": 3, "image_token_id": 4, "video_token_id": 5}
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer():
    """Byte-level pairs, trained on one line: every text can be written."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = byte_level, decoders.ByteLevel()
    made.train_from_iterator(
        ["what is in the image? user assistant"],
        trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=SPECIAL,
            initial_alphabet=byte_level.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<|im_end|>",
        eos_token="<|im_end|>",
        additional_special_tokens=SPECIAL,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder laid out as the published one: image processor, tokenizer and chat template in files of their own."""
    folder = tmp_path_factory.mktemp("qwen")
    words = tokenizer()
    model = tiny_model("qwen2_5_vl")
    model.resize_token_embeddings(len(words))
    for name, number in IDS.items():
        setattr(model.config, name, words.convert_tokens_to_ids(SPECIAL[number]))
    model.config.text_config.bos_token_id = model.config.text_config.eos_token_id = words.eos_token_id
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    images = Qwen2VLImageProcessor(min_pixels=4 * 28 * 28, max_pixels=30 * 28 * 28)
    images.save_pretrained(folder)
    settings = folder / "preprocessor_config.json"
    settings.write_text(
        json.dumps({**json.loads(settings.read_text()), "processor_class": "Qwen2_5_VLProcessor"})
    )
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return folder


def prompts(processor):
    """Two questions of different lengths, with one and two images of different shapes."""
    draw = np.random.default_rng(0)
    pictures = [
        Image.fromarray(draw.integers(0, 255, (h, w, 3), dtype=np.uint8)) for h, w in ((60, 100), (84, 56))
    ]
    turns = [
        [{"type": "image"}, {"type": "text", "text": "what is it?"}],
        [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "what is in the image? cat or dog"}],
    ]
    texts = [
        processor.apply_chat_template([{"role": "user", "content": turn}], add_generation_prompt=True)
        for turn in turns
    ]
    flat = [pictures[0], pictures[1], pictures[0]]
    return processor(images=flat, text=texts, padding=True, return_tensors="pt")


def test_a_checkpoint_answers_with_and_without_pruning(checkpoint):
    loaded = zoo_exp.load_model(checkpoint)
    assert loaded.adapter.family == "qwen2_5_vl"
    inputs = prompts(loaded.processor)
    image_id = loaded.model.config.image_token_id
    assert (inputs["input_ids"] == image_id).sum(1).tolist() == [8, 6 + 8]
    assert (inputs["attention_mask"][0] == 0).any()
    assert not inputs["attention_mask"][0, 0]  # padded on the left
    options = {"max_new_tokens": 4, "do_sample": False}
    plain = loaded.model.generate(**inputs, **options)
    with zoo_exp.pruned(loaded, "full"):
        assert torch.equal(loaded.model.generate(**inputs, **options), plain)
    with zoo_exp.pruned(loaded, "zoo", 3) as pruning:
        short = loaded.model.generate(**inputs, **options)
    assert pruning.kept_tokens == [3, 6]
    assert short.shape == plain.shape
    assert torch.equal(short[:, : -options["max_new_tokens"]], inputs["input_ids"])
    assert len(loaded.processor.batch_decode(short)) == 2


def test_the_processor_is_read_back_by_the_same_name(checkpoint, tmp_path):
    first = zoo_exp.load_model(checkpoint)
    first.model.save_pretrained(tmp_path)
    first.processor.save_pretrained(tmp_path)
    saved = "".join(p.read_text() for p in tmp_path.glob("*processor_config.json"))
    assert '"Qwen2_5_VLProcessor"' in saved
    second = zoo_exp.load_model(tmp_path)
    for name, value in prompts(first.processor).items():
        assert torch.equal(prompts(second.processor)[name], value)


@pytest.mark.skipif(is_torchvision_available(), reason="with torchvision the stock processor is taken")
def test_no_video_processor_is_needed(checkpoint):
    processor = zoo_exp.load_model(checkpoint).processor
    assert type(processor).get_attributes() == ["image_processor", "tokenizer"]
    with pytest.raises(ImportError, match=r"(?i)torchvision"):
        AutoProcessor.from_pretrained(checkpoint)


def test_a_missing_tokenizer_is_not_made_up(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(MissingFileError, match=r"has no tokenizer\.json: copy it"):
        zoo_exp.load_model(folder)
