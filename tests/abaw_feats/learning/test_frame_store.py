from dataclasses import replace

import numpy as np
import pytest
import torch

from abaw_feats.backbones import Preprocessing
from abaw_feats.learning.augment import AugmentConfig
from abaw_feats.learning.frame_store import open_frames, read_frames
from abaw_feats.reading.image_index import index_images, index_videos, join_indexes
from abaw_seq.errors import UserError
from tests.abaw_feats.tiny_videos import picture, write_frames, write_video

CPU = torch.device("cpu")
RGB = Preprocessing(32, "rgb", "bicubic", 255.0, (0.5,) * 3, (0.5,) * 3)


def opened(index, *, preprocessing=RGB, memory_gb=1.0, augment=None):
    rows = torch.arange(len(index))
    return open_frames(index, rows, preprocessing, memory_gb=memory_gb, device=CPU, augment=augment)


def rows_of(store, rows):
    return next(iter(store.batches([torch.tensor(rows)])))


def test_a_tree_of_images_is_listed_by_folder_and_name(tmp_path):
    write_frames(tmp_path / "b" / "deep", [1, 2])
    picture(3).save(tmp_path / "b" / "portrait.png")
    write_frames(tmp_path / "a", [7])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    write_video(tmp_path / "film.mp4", 3)
    index = index_images([tmp_path])
    listed = [str(index.path(row).relative_to(tmp_path)) for row in range(len(index))]
    assert listed == ["film.mp4"] * 3 + ["a/00007.png", "b/portrait.png", "b/deep/00001.png", "b/deep/00002.png"]
    assert index.number.tolist() == [1, 2, 3, 1, 1, 1, 2]
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no images there"):
        index_images([empty])


def test_indexes_are_joined_selected_and_have_hashes_of_their_own(tmp_path):
    write_frames(tmp_path / "x" / "v1", [1, 5])
    write_frames(tmp_path / "y" / "v2", [2])
    first, second = index_videos([tmp_path / "x"]), index_videos([tmp_path / "y"])
    both = join_indexes([first, second])
    assert [both.path(row).name for row in range(3)] == ["00001.png", "00005.png", "00002.png"]
    assert both.path(2).parent.name == "v2"
    assert both.select(np.array([2, 0])).number.tolist() == [2, 1]
    assert len({first.sha256, second.sha256, both.sha256, both.select(np.array([0])).sha256}) == 4
    assert both.sha256 == join_indexes([first, second]).sha256


@pytest.mark.parametrize("memory_gb", [1.0, 0.0])
def test_images_are_the_same_in_memory_and_decoded_later(tmp_path, memory_gb):
    write_frames(tmp_path / "v", range(1, 8), size=(32, 32))
    (tmp_path / "v" / "00004.png").write_bytes(b"not an image")
    write_frames(tmp_path / "w", [1], size=(40, 20))
    index = index_images([tmp_path])
    store = opened(index, memory_gb=memory_gb)
    assert (store.pixels is None) == (memory_gb == 0.0)
    pixels, rows = rows_of(store, [6, 3, 0, 7])
    assert rows.tolist() == [6, 0, 7]
    assert np.array_equal(pixels[1].permute(1, 2, 0), np.asarray(picture(1, (32, 32))))
    assert pixels.shape == (3, 3, 32, 32)
    streamed = [rows.tolist() for _, rows in store.batches(torch.arange(8).split(2))]
    assert streamed == [[0, 1], [2], [4, 5], [6, 7]]


def test_frames_of_a_video_file_keep_their_numbers(tmp_path):
    write_video(tmp_path / "film.mp4", 6, size=(32, 32))
    index = index_videos([tmp_path / "film.mp4"]).select(np.array([5, 1]))
    for memory_gb in (1.0, 0.0):
        store = opened(index, memory_gb=memory_gb)
        pixels, rows = rows_of(store, [0, 1])
        assert rows.tolist() == [0, 1]
        assert pixels.float().mean((1, 2, 3)).tolist() == pytest.approx([60, 20], abs=3)


def test_images_that_all_cannot_be_read_are_an_error_that_names_one(tmp_path):
    write_frames(tmp_path / "v", [1, 2])
    for file in (tmp_path / "v").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="00001.png"):
        opened(index_images([tmp_path]))


def test_a_store_of_some_rows_gives_their_images(tmp_path):
    write_frames(tmp_path / "v", range(1, 6), size=(40, 40))
    write_video(tmp_path / "film.mp4", 4, size=(64, 48))
    index = index_images([tmp_path])
    rows = torch.tensor([2, 4, 5, 8])
    store = open_frames(index, rows, RGB, memory_gb=1.0, device=CPU)
    assert store.rows.tolist() == rows.tolist()
    assert len(store.pixels) == 4
    pixels, read = rows_of(store, [8, 2])
    every, _ = rows_of(opened(index), range(9))
    assert read.tolist() == [8, 2]
    assert torch.equal(pixels, every[[8, 2]])
    once = list(read_frames(index, rows, RGB, device=CPU))
    assert [read.tolist() for _, read in once] == [[4, 5, 8], [2]]
    assert torch.equal(torch.cat([images for images, _ in once]), every[[4, 5, 8, 2]])


@pytest.mark.parametrize(
    ("frame", "size", "augment", "side", "kept"),
    [
        ((112, 112), 64, AugmentConfig(), 80, (80, 80, 3)),
        ((112, 112), 64, None, 64, (64, 64, 3)),
        ((70, 90), 64, AugmentConfig(), 70, (70, 70, 3)),
        ((112, 112), 224, AugmentConfig(), 224, (112, 112, 3)),
        ((112, 112), 64, AugmentConfig(flip=0, scale=(1, 1), aspect=0, rotation=0), 64, (64, 64, 3)),
    ],
)
def test_images_are_kept_as_small_as_their_use_allows(tmp_path, frame, size, augment, side, kept):
    write_frames(tmp_path / "v", range(1, 4), size=frame[::-1])
    store = opened(index_images([tmp_path]), preprocessing=replace(RGB, size=size), augment=augment)
    assert store.pixels.shape == (3, *kept)
    assert rows_of(store, [0, 2])[0].shape == (2, 3, side, side)
