"""The limits that SECURITY.md states are those of the code."""

from pathlib import Path

import pytest

from counterview import config
from counterview.data.formats import open_videos
from counterview.masks import rle
from counterview.media import files, images, jsonstream, mp4, npy, video_source
from counterview.nn import checkpoint, network_folder, torch_file
from counterview.proposals import arrays, folder
from counterview.proposals.folder import FolderSettings
from counterview.types import MAX_RUNS

TABLE = (Path(__file__).parents[2] / "SECURITY.md").read_text(encoding="utf-8").partition("## Limits")[2]
ROWS = {
    "images": (
        (images.MAX_PIXELS, 100_000_000, "100 million pixels"),
        (images.MAX_TILE_PIXELS, 1 << 24, "tiles of 16.8 million"), (images.MAX_SCANS, 200, "200 scans"),
    ),
    "videos": (
        (video_source.MAX_PIXELS, 40_000_000, "40 million pixels a frame"),
        (mp4.MAX_SAMPLES, 5_000_000, "5 million samples"),
    ),
    "videos of a release": ((open_videos.OPEN_VIDEOS, 12, "12 open at once"),),
    "masks": (
        (rle.MAX_PIXELS, 100_000_000, "100 million pixels"), (rle.MAX_SIDE, 65_535, "sides of 65,535"),
        (rle.MAX_COUNTS, 1 << 24, "16.7 million run lengths"), (MAX_RUNS, 20_000_000, "20 million runs"),
    ),
    "masks of proposals in folders": (
        (FolderSettings("x").max_masks, 10_000, "10,000 an image"), (arrays.MAX_SIDE_PX, 32_768, "sides of 32,768"),
        (folder.MAX_POLYGON_POINTS, 1_000_000, "a million points"),
        (folder.MAX_OUTLINE_PX, 4_000_000, "4 million pixels"),
    ),
    "JSON": (
        (files.MAX_JSON_BYTES, 1 << 30, "1 GiB"), (files.MAX_JSON_MEMORY, 4 << 30, "4 GiB of values"),
        (jsonstream.MAX_VALUE_BYTES, 128 << 20, "128 MiB"), (jsonstream.MAX_DEPTH, 200, "200 levels"),
    ),
    "recipes and settings in YAML": (
        (config.MAX_BYTES, 250_000, "250 kB"), (config.MAX_VALUES, 100_000, "100,000 values"),
    ),
    "`config.json` of a model": (
        (checkpoint.MAX_CONFIG_BYTES, 1_000_000, "1 MB"), (network_folder.MAX_LAYERS, 256, "256 layers"),
        (network_folder.MAX_NUMBER, 1_000_000, "above a million"),
    ),
    "state dicts in `.pt`": (
        (torch_file._MAX_OPERATIONS, 5_000_000, "5 million operations"),
        (torch_file._MAX_VALUES, 10_000_000, "10 million"),
    ),
    "arrays": ((npy.MAX_DIRECTORY, 4 << 20, "4 MiB"), (npy.MAX_HEADER, 10_000, "10 kB")),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_what_the_table_of_limits_says(row):
    [line] = [line for line in TABLE.splitlines() if line.startswith(f"| {row} |")]
    for value, expected, words in ROWS[row]:
        assert value == expected
        assert words in line


def test_every_row_is_checked():
    rows = [line.split(" | ")[0].removeprefix("| ") for line in TABLE.splitlines() if line.startswith("| ")]
    assert [row for row in rows if row != "input"] == list(ROWS)
