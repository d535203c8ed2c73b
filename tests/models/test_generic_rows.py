"""Forms in which other versions of transformers return rows, name pixels and place newlines."""

from types import SimpleNamespace

import pytest
import torch

from zoo_exp.models.generic_rows import encoder_arguments, named_pixels, pixel_inputs, split_rows
from zoo_exp.models.videos import Video, with_newlines
from zoo_exp.testing.sample_images import sample_tokens

CONFIG = SimpleNamespace(
    vision_config=SimpleNamespace(spatial_merge_size=2, vision_feature_select_strategy="full")
)
GRIDS = torch.tensor([[1, 4, 4], [1, 8, 4]])


def lengths(pooled, **call):
    """Rows of every entry."""
    return [len(rows) for rows in split_rows(pooled, call, CONFIG)]


def test_rows_of_all_images_are_split_by_the_patches_of_each():
    flat = torch.arange(12.0)[:, None]
    parts = split_rows(flat, {"image_grid_thw": GRIDS}, CONFIG)
    assert [len(part) for part in parts] == [4, 8]
    assert torch.equal(torch.cat(parts), flat)
    assert lengths(flat, video_grid_thw=GRIDS) == [4, 8]


@pytest.mark.parametrize(("rows", "expected"), [(22, [8, 14]), (18, [6, 12]), (14, [5, 9])])
def test_separators_of_images_are_counted(rows, expected):
    """HunYuan-VL: a newline per row of merged patches, and a token before and after the image."""
    assert lengths([torch.zeros(rows, 3)], image_grid_thw=GRIDS) == expected


def test_padding_images_have_no_rows():
    pixels = torch.ones(2, 2, 3, 4, 4)
    pixels[1, 1] = 0
    assert lengths(torch.zeros(12, 5), pixel_values=pixels) == [4, 4, 4]


def test_rows_that_are_told_apart_stay_as_they_are():
    tiles = [torch.zeros(10, 3)]
    assert lengths(tiles, pixel_values=torch.ones(1, 2, 3, 4, 4)) == [10]
    assert lengths(torch.zeros(2, 4, 3), image_grid_thw=GRIDS) == [4, 4]
    assert lengths([torch.zeros(4, 3), torch.zeros(8, 3)], image_grid_thw=GRIDS) == [4, 8]
    assert lengths([torch.zeros(7, 3)], image_grid_thw=GRIDS) == [7]


class OldFuyu:
    """Names of Fuyu before transformers 5.23."""

    config = CONFIG

    def get_image_features(self, pixel_values):
        """Encode."""

    def forward(self, input_ids=None, image_patches=None):
        """Answer."""


class OldVideoLlava:
    """Names of Video-LLaVA before transformers 5.23, and a required option as in Llama 4."""

    config = CONFIG

    def get_image_features(
        self, pixel_values_images, vision_feature_select_strategy, vision_feature_layer=None
    ):
        """Encode."""

    def forward(self, input_ids=None, pixel_values_images=None):
        """Answer."""


def test_pixels_have_the_names_of_the_installed_version():
    assert pixel_inputs(OldFuyu()) == ("image_patches",)
    assert pixel_inputs(OldVideoLlava()) == ("pixel_values_images",)
    assert named_pixels({"image_patches": 1, "image_sizes": 2}) == {"pixel_values": 1, "image_sizes": 2}
    assert encoder_arguments(OldFuyu(), {"pixel_values": 1}) == {"pixel_values": 1}
    named = {"pixel_values_images": 1, "vision_feature_select_strategy": "full"}
    assert encoder_arguments(OldVideoLlava(), {"pixel_values": 1}) == named


def test_a_newline_that_only_forward_adds_belongs_to_the_video():
    frame = sample_tokens(n_visual=4)
    newline = torch.full_like(frame.projected[0], 0.5)
    videos = [Video((frame, frame), frame.projected[:0])]
    embeds = torch.zeros(1, 11, len(newline))
    slots = torch.zeros(1, 11, dtype=torch.bool)
    slots[0, 1:10] = True
    assert with_newlines(videos, slots, embeds, newline) == videos
    embeds[0, 9] = newline
    (longer,) = with_newlines(videos, slots, embeds, newline)
    assert longer.count == 9
    assert torch.equal(longer.tail, newline[None])
    assert with_newlines([longer], slots, embeds, newline) == [longer]
    assert with_newlines(videos, slots, embeds, None) == videos
