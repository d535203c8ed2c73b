"""Gallery images show what the model saw, cell by cell."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import CLIPImageProcessor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.models.seen import CELL, seen


def wide():
    """200 x 100: green on the left, which a centre crop removes, red in the middle, blue on the right."""
    image = Image.new("RGB", (200, 100), (0, 160, 0))
    ImageDraw.Draw(image).rectangle((50, 0, 149, 99), fill=(220, 0, 0))
    ImageDraw.Draw(image).rectangle((150, 0, 199, 99), fill=(0, 0, 220))
    return image


def cropping():
    return CLIPImageProcessor(size={"shortest_edge": 48}, crop_size={"height": 48, "width": 48})


def test_cropped_parts_are_not_shown():
    processor = cropping()
    inputs = dict(processor(images=[Image.new("RGB", (60, 60)), wide()], return_tensors="pt"))
    tokens = VisualTokens(projected=torch.zeros(16, 2), grid=(4, 4))
    view = seen(tokens, wide(), inputs, 1, processor)
    assert view.image.size == (48, 48)
    middle = np.asarray(view.image)[4:-4, 4:-4].reshape(-1, 3)
    assert np.abs(middle - np.array([220, 0, 0])).max() <= 3
    assert view.grid == (4, 4)
    assert view.marked(torch.tensor([0, 5, 15])) == [0, 5, 15]


def test_flat_patches_show_the_whole_image():
    inputs = {"pixel_values": torch.zeros(8 * 4, 588), "image_grid_thw": torch.tensor([[1, 4, 8]])}
    view = seen(VisualTokens(projected=torch.zeros(8, 2), grid=(2, 4)), wide(), inputs, 0, None)
    assert view.image.size == (200, 100)
    assert view.grid == (2, 4)


def tiled_tokens():
    """A base tile of 3 x 3 and two joined tiles: 2 rows of 6, each ended by a newline."""
    row = [1, 1, 1, 2, 2, 2, -1]
    tile = torch.tensor([0] * 9 + row * 2)
    return VisualTokens(projected=torch.zeros(len(tile), 2), tile=tile)


def test_tiles_are_shown_beside_the_base_image_with_kept_tokens_in_place():
    processor = cropping()
    base = processor(images=wide().resize((48, 48)), return_tensors="pt")["pixel_values"]
    inputs = {"pixel_values": torch.stack([base[0], base[0], base[0]])[None]}
    view = seen(tiled_tokens(), wide(), inputs, 0, processor)
    rows, columns = view.grid
    assert (rows, columns) == (3, 3 + 1 + 6)
    assert view.image.size == (columns * CELL, rows * CELL)
    # The last token of the base tile, the first of the tiles, a newline (which has no cell), the last token.
    assert view.marked(torch.tensor([8, 9, 15, 21])) == [4, columns + 9, 2 * columns + 2]

    def colour(cell):
        x, y = (cell % columns * CELL + CELL // 2, cell // columns * CELL + CELL // 2)
        return view.image.getpixel((x, y))

    assert colour(4)[0] < 60  # the left of the tiles is green,
    assert colour(4)[1] > 120
    assert colour(columns + 9)[2] > 180  # the right is blue,
    assert max(colour(2 * columns + 6)) < 40  # and below the tiles there is nothing.


def test_tokens_that_form_no_grid_have_no_image():
    tile = torch.tensor([0] * 9 + [1, 1, 1, -1, 1, 1, -1])
    assert seen(VisualTokens(projected=torch.zeros(16, 2), tile=tile), wide(), {}, 0, None) is None
    assert seen(VisualTokens(projected=torch.zeros(16, 2)), wide(), {}, 0, None) is None
    assert seen(VisualTokens(projected=torch.zeros(15, 2), grid=(4, 4)), wide(), {}, 0, None) is None
