"""Mask galleries: which pixels stay bright, where outlines run, what the rule chooses."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo_exp.errors import InvalidValueError, MissingFileError
from zoo_exp.report.mask_items import choose, read_masks
from zoo_exp.report.masks import MaskArm, MaskItem, gallery, kept_mask, outline, overlay

GREY = Image.new("RGB", (96, 96), (200, 200, 200))


def item(task="gqa", sample="1", scores=(1.0, 0.0), question="What?", image=GREY):
    shown = tuple(MaskArm(f"arm {n}", (0, 13 * n), "red", score) for n, score in enumerate(scores))
    return MaskItem(task, sample, question, "red", (12, 12), image, shown)


def test_tokens_are_numbered_row_by_row():
    mask = kept_mask([0, 5, 11], (3, 4))
    assert np.argwhere(mask).tolist() == [[0, 0], [1, 1], [2, 3]]


@pytest.mark.parametrize("indices", [[144], [-1], [3, 200]])
def test_tokens_outside_the_raster_are_refused(indices):
    with pytest.raises(InvalidValueError, match="lies outside the 12 x 12 raster: allowed are 0 to 143"):
        kept_mask(indices, (12, 12))


@pytest.mark.parametrize("size", [(96, 96), (50, 130), (640, 20)])
def test_kept_tokens_keep_their_colour_and_others_darken(size):
    mask = kept_mask([0, 7], (2, 4))
    picture = overlay(Image.new("RGB", size, (200, 100, 50)), mask)
    rows, columns = picture.shape[:2]
    centres = [(rows * (2 * r + 1) // 4, columns * (2 * c + 1) // 8) for r in range(2) for c in range(4)]
    bright = [picture[y, x].max() > 0.7 for y, x in centres]
    assert bright == mask.ravel().tolist()
    np.testing.assert_allclose(picture[centres[0]], np.array([200, 100, 50]) / 255, atol=0.01)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_outlines_run_exactly_between_kept_and_dropped(rows, columns, data):
    kept = data.draw(st.sets(st.integers(0, rows * columns - 1)))
    mask = kept_mask(sorted(kept), (rows, columns))
    slow = set()
    for row in range(-1, rows + 1):
        for column in range(-1, columns + 1):
            inside = 0 <= row < rows and 0 <= column < columns and bool(mask[row, column])
            right = 0 <= row < rows and 0 <= column + 1 < columns and bool(mask[row, column + 1])
            below = 0 <= row + 1 < rows and 0 <= column < columns and bool(mask[row + 1, column])
            if inside != right:
                slow.add(((column + 1, row), (column + 1, row + 1)))
            if inside != below:
                slow.add(((column, row + 1), (column + 1, row + 1)))
    fast = {tuple(tuple(int(v) for v in point) for point in segment) for segment in outline(mask)}
    assert fast == slow


def test_gallery_draws_every_cell(tmp_path):
    path = tmp_path / "masks.png"
    gallery([item(), item(sample="2", scores=(1.0,))], path, "how it was chosen")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), float)
    assert pixels.shape[1] > pixels.shape[0] * 0.5
    dark = (pixels.max(axis=2) < 80).mean()
    assert 0.2 < dark < 0.8
    again = tmp_path / "again.png"
    gallery([item(), item(sample="2", scores=(1.0,))], again, "how it was chosen")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "text", ["costs $5 or $6?", "$\\frac{", "日本語 \x00\x1b[31m", "x" * 500, "", "a\nb", "\\alpha_{1}^2"]
)
def test_any_text_can_be_drawn(tmp_path, text, recwarn):
    hostile = item(question=text)
    hostile = replace(
        hostile,
        reference=text,
        task=text,
        arms=tuple(replace(a, arm=text, response=text) for a in hostile.arms),
    )
    gallery([hostile], tmp_path / "masks.png", text)
    assert (tmp_path / "masks.png").stat().st_size > 1000
    assert not recwarn.list


def test_nothing_to_draw(tmp_path):
    with pytest.raises(InvalidValueError, match="at least one question"):
        gallery([], tmp_path / "masks.png")


def test_the_rule_prefers_disagreement():
    items = [
        item("gqa", "1", (1.0, 1.0)),
        item("gqa", "2", (0.0, 1.0)),
        item("gqa", "3", (1.0, 0.0)),
        item("pope", "4", (0.0, 0.0)),
        item("pope", "5", (1.0, 1.0)),
    ]
    names = ["arm 0", "arm 1"]
    assert [i.sample_id for i in choose(items, names, ["pope", "gqa"])] == ["4", "2"]
    assert [i.sample_id for i in choose(items, ["arm 1"], ["gqa", "pope", "mme"])] == ["1", "4"]
    assert len(choose(items, names, ["pope", "gqa"], rows=1)) == 1
    assert choose(items, ["other"], ["gqa"]) == []


def test_reading_back_what_a_run_wrote(make_run):
    items = read_masks(make_run())
    assert [i.task for i in items] == ["embedded_gqa", "embedded_pope", "embedded_vqav2"]
    assert items[0].grid == (12, 12)
    assert [len(a.indices) for a in items[0].arms] == [144, 16, 16, 16, 0]


def test_a_run_without_masks_has_none(tmp_path):
    assert read_masks(tmp_path) == []


@pytest.mark.parametrize("name", ["../secret.png", "/etc/hostname"])
def test_pictures_outside_the_run_folder_are_not_opened(make_run, name):
    run = make_run()
    GREY.save(run.parent / "secret.png")
    row = json.loads((run / "masks.jsonl").read_text().splitlines()[0])
    (run / "masks.jsonl").write_text(json.dumps({**row, "image": name}) + "\n")
    with pytest.raises(MissingFileError, match="outside the run folder"):
        read_masks(run)


def test_damage_is_named(make_run):
    run = make_run()
    row = json.loads((run / "masks.jsonl").read_text().splitlines()[0])
    (run / "masks.jsonl").write_text(json.dumps({**row, "grid": [12]}) + "\n")
    with pytest.raises(MissingFileError, match="line 1 is no mask row"):
        read_masks(run)
    (run / "masks.jsonl").write_text(json.dumps(row) + "\n")
    (run / row["image"]).write_bytes(b"no picture")
    with pytest.raises(MissingFileError, match="cannot read picture"):
        read_masks(run)
