"""`run` on families without an adapter of their own, with their real processors: from the folder to the table."""

import json

import pytest
import transformers
from rich.console import Console
from tiny_families import tiny_family
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Idefics3ImageProcessorPil

from zoo_exp import pipeline
from zoo_exp.config import compose

ARMS = "[full,divprune,zoo]"
CHAT = (
    "{% for m in messages %}User:{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}IMAGE{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


def tokenizer(special):
    """Byte-level, with the family's special tokens."""
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = byte_level, decoders.ByteLevel()
    names = ["<unk>", "<s>", "</s>", *special]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=names, initial_alphabet=byte_level.alphabet(), show_progress=False
    )
    made.train_from_iterator(["User Assistant"], trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        additional_special_tokens=special,
    )


def idefics3():
    """16 patches per tile, four of which make a token; images are not split."""
    words = tokenizer(["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"])
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 56}, max_image_size={"longest_edge": 56}, do_image_splitting=False
    )
    return transformers.Idefics3Processor(
        images, words, image_seq_len=4, chat_template=CHAT.replace("IMAGE", "<image>")
    )


def vipllava():
    """16 patches per image, each a token."""
    words = tokenizer(["<image>"])
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}
    )
    return transformers.LlavaProcessor(
        images, words, patch_size=14, num_additional_image_tokens=1, vision_feature_select_strategy="default",
        chat_template=CHAT.replace("IMAGE", "<image>"),
    )  # fmt: skip


WITHOUT_TORCHVISION = pytest.mark.skipif(
    getattr(Idefics3ImageProcessorPil, "is_dummy", False),
    reason="this version of transformers reads images of Idefics3 only with torchvision, which is not installed",
)


@pytest.mark.parametrize("make", [pytest.param(idefics3, marks=WITHOUT_TORCHVISION), vipllava])
def test_a_run_from_the_folder_to_the_table(make, tmp_path):
    processor = make()
    words = processor.tokenizer
    model = tiny_family(
        make.__name__, image_token_id=processor.image_token_id, text_config={"vocab_size": len(words)}
    )
    model.generation_config.eos_token_id = words.eos_token_id
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    experiment = compose([
        "model=hub", f"model.path={tmp_path / 'model'}", "task=embedded_pope", f"selector={ARMS}", "budget=2",
        "limit=2", "logger=none", "trainer=cpu", f"out={tmp_path}",
    ])  # fmt: skip
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=200, file=nowhere)
        assert pipeline.run(experiment, console) == 0
    printed = console.export_text()
    assert f"model type {make.__name__} has no formula for FLOPs: their columns stay empty" in printed
    rows = [json.loads(line) for line in (experiment.run_dir / "records.jsonl").read_text().splitlines()]
    tokens = 4 if make is idefics3 else 16
    kept = {(row["selector"], row["kept_tokens"]) for row in rows}
    assert kept == {("full", tokens), ("divprune", 2), ("zoo", 2)}
    assert len(rows) == 6
    assert not any("not_applicable" in row for row in rows)
    for name in ("flops_tflop", "prefill_tflop", "selector_tflop"):
        assert {row[name] for row in rows} == {None}
    assert (experiment.run_dir / "results.md").is_file()
