"""Mask galleries: brightness, outlines and the choice of questions."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from zoo_exp.errors import InvalidValueError
from zoo_exp.overlays import darkened, kept_mask, outline, overlay, resized
from zoo_exp.report.gallery import draw_gallery, font, shorten, wrap
from zoo_exp.report.mask_items import MaskArm, MaskItem, choose, read_masks

NEIGHBOURS = ((0, 1), (0, -1), (1, 0), (-1, 0))
GREY = Image.new("RGB", (96, 96), (200, 200, 200))


def item(task="gqa", sample="1", scores=(1.0, 0.0), question="What?", image=GREY):
    shown = tuple(MaskArm(f"arm {n}", (0, 13 * n), "red", score) for n, score in enumerate(scores))
    return MaskItem(task, sample, question, "red", (12, 12), image, shown)


def test_tokens_are_numbered_row_by_row():
    mask = kept_mask([0, 5, 11], (3, 4))
    assert np.argwhere(mask).tolist() == [[0, 0], [1, 1], [2, 3]]


@pytest.mark.parametrize("indices", [[144], [-1], [3, 200]])
def test_tokens_outside_the_grid_are_refused(indices):
    with pytest.raises(InvalidValueError, match="lies outside the 12 x 12 grid: allowed are 0 to 143"):
        kept_mask(indices, (12, 12))


@pytest.mark.parametrize("size", [(96, 96), (50, 130), (640, 20)])
def test_kept_tokens_keep_their_colour_and_others_darken(size):
    mask = kept_mask([0, 7], (2, 4))
    plain = resized(Image.new("RGB", size, (200, 100, 50)), size)
    shown = overlay(plain, darkened(plain), mask)
    rows, columns = shown.shape[:2]
    assert (columns, rows) == size
    centres = [(rows * (2 * r + 1) // 4, columns * (2 * c + 1) // 8) for r in range(2) for c in range(4)]
    bright = [shown[y, x].max() > 180 for y, x in centres]
    assert bright == mask.ravel().tolist()
    np.testing.assert_array_equal(shown[centres[0]], (200, 100, 50))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_outlines_run_exactly_between_kept_and_dropped(rows, columns, data):
    chosen = data.draw(st.sets(st.integers(0, rows * columns - 1)))
    mask = kept_mask(sorted(chosen), (rows, columns))

    def kept(row, column):
        return 0 <= row < rows and 0 <= column < columns and bool(mask[row, column])

    slow = [
        [
            any(kept(row + down, column + across) != kept(row, column) for down, across in NEIGHBOURS)
            for column in range(columns)
        ]
        for row in range(rows)
    ]
    assert outline(mask).tolist() == slow


def test_gallery_draws_every_cell(tmp_path):
    path = tmp_path / "masks.png"
    draw_gallery([item(), item(sample="2", scores=(1.0,))], path, "how it was chosen")
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"), float)
    assert pixels.shape[1] > pixels.shape[0] * 0.5
    dark = (pixels.max(axis=2) < 80).mean()
    assert 0.2 < dark < 0.8
    again = tmp_path / "again.png"
    draw_gallery([item(), item(sample="2", scores=(1.0,))], again, "how it was chosen")
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
    draw_gallery([hostile], tmp_path / "masks.png", text)
    assert (tmp_path / "masks.png").stat().st_size > 1000
    assert not recwarn.list


@pytest.mark.parametrize("text", ["short", "a long " * 40, "W" * 300, ""])
def test_text_is_cut_to_its_width(text):
    face = font(14)
    assert face.getlength(shorten(text, face, 120)) <= 120
    lines = wrap(text, face, 120, most=2)
    assert len(lines) <= 2
    assert all(face.getlength(line) <= 120 for line in lines)
    assert (shorten(text, face, 120) == text) == (face.getlength(text) <= 120)


def test_empty_galleries_are_not_drawn(tmp_path):
    with pytest.raises(InvalidValueError, match="at least one question"):
        draw_gallery([], tmp_path / "masks.png")


def test_questions_on_which_arms_disagree_come_first():
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
def test_images_outside_the_run_folder_are_not_opened(make_run, caplog, name):
    run = make_run()
    GREY.save(run.parent / "secret.png")
    row = json.loads((run / "masks.jsonl").read_text().splitlines()[0])
    (run / "masks.jsonl").write_text(json.dumps({**row, "image": name}) + "\n")
    assert read_masks(run) == []
    assert "outside the run folder" in caplog.text


def test_a_damaged_row_or_image_is_reported_and_skipped(make_run, caplog):
    run = make_run()
    row = json.loads((run / "masks.jsonl").read_text().splitlines()[0])
    (run / "masks.jsonl").write_text(json.dumps({**row, "grid": [12]}) + "\n")
    assert read_masks(run) == []
    assert "line 1 is damaged (grid is [12])" in caplog.text
    (run / "masks.jsonl").write_text(json.dumps(row) + "\n")
    (run / row["image"]).write_bytes(b"no picture")
    assert read_masks(run) == []
    assert f"cannot read image {run / row['image']}" in caplog.text
