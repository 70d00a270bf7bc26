from __future__ import annotations

import errno
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from abaw_feats.extraction import batches
from abaw_feats.extraction.batches import load_batches
from abaw_feats.reading import decoder_processes
from abaw_feats.reading.frames import VideoSource, list_videos
from tests.abaw_feats.tiny_videos import picture, write_frames, write_video


def rows_of(batch):
    """{row: pixels} of a batch."""
    return {int(row): pixels for rows, group in batch.images for row, pixels in zip(rows, group, strict=True)}


def collect(videos, batch_size, workers=2, processes=False):
    """All batches, and per video its (frame, valid, pixels or None) in the order they came."""
    found, loaded = {}, list(load_batches(videos, batch_size=batch_size, workers=workers, processes=processes))
    for batch in loaded:
        pixels = rows_of(batch)
        row = 0
        for piece in batch.pieces:
            for frame, valid in zip(piece.frames, piece.valid, strict=True):
                found.setdefault(piece.video.name, []).append((frame, bool(valid), pixels.get(row)))
                row += 1
        assert row == batch.rows <= batch.capacity
    return loaded, found


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    root = tmp_path_factory.mktemp("frames")
    for seed, (name, numbers) in enumerate({"a": range(1, 8), "b": [4], "c": range(10, 30)}.items()):
        write_frames(root / name, numbers, seed=seed)
    return list_videos([root])


@pytest.mark.parametrize("batch_size", [1, 3, 4, 7, 28, 100])
@pytest.mark.parametrize(("workers", "processes"), [(1, False), (4, False), (2, True)])
def test_every_frame_comes_once_in_order_across_videos(three, batch_size, workers, processes):
    loaded, found = collect(three, batch_size, workers, processes)
    assert [frame for frame, _, _ in found["a"]] == list(range(1, 8))
    assert [frame for frame, _, _ in found["b"]] == [4]
    assert [frame for frame, _, _ in found["c"]] == list(range(10, 30))
    for seed, name in enumerate("abc"):
        for frame, valid, pixels in found[name]:
            assert valid and np.array_equal(pixels, picture(seed * 100_003 + frame))
    assert [batch.rows for batch in loaded[:-1]] == [batch_size] * (28 // batch_size - (28 % batch_size == 0))
    assert {batch.capacity for batch in loaded} == {batch_size}
    ends = [piece.video.name for batch in loaded for piece in batch.pieces if piece.ends]
    assert ends == ["a", "b", "c"]


@pytest.mark.parametrize("processes", [False, True])
def test_broken_frames_keep_their_row_and_are_not_valid(tmp_path, processes):
    folder = write_frames(tmp_path / "v", range(1, 6), suffix=".jpg")
    (folder / "00002.jpg").write_bytes((folder / "00002.jpg").read_bytes()[:100])
    (folder / "00004.jpg").write_bytes(b"")
    (folder / "00006.jpg").mkdir()
    (folder / "00007.jpg").symlink_to("nowhere.jpg")
    _, found = collect([VideoSource("v", folder, False, 7)], 3, processes=processes)
    assert [valid for _, valid, _ in found["v"]] == [True, False, True, False, True, False, False]
    assert [frame for frame, _, _ in found["v"]] == list(range(1, 8))


def test_a_video_that_cannot_be_listed_or_decoded_does_not_stop_the_others(tmp_path, three):
    twice = write_frames(tmp_path / "twice", [1, 2])
    (twice / "2.png").write_bytes(b"")
    junk = tmp_path / "junk.mp4"
    junk.write_bytes(b"junk" * 100)
    bad = [VideoSource("twice", twice, False, 3), VideoSource("junk", junk, True, 0)]
    absent = VideoSource("absent", tmp_path / "absent", False, 5)
    loaded, found = collect([bad[0], three[0], bad[1], absent, three[1]], 4)
    problems = {piece.video.name: piece.problem for batch in loaded for piece in batch.pieces if piece.ends}
    assert "both frame 2" in problems["twice"] and "after 0 frames" in problems["junk"] and problems["absent"]
    assert problems["a"] == problems["b"] == "" and len(found["a"]) == 7 and len(found["b"]) == 1


def test_storage_that_fails_is_the_videos_problem_not_a_broken_frame(three, monkeypatch):
    def fail(path, mode, buffering):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(decoder_processes, "open", fail, raising=False)
    (batch,) = load_batches(three[:1], batch_size=10, workers=1)
    assert "Input/output error" in batch.pieces[0].problem


def test_a_folder_that_disappears_is_the_videos_problem(tmp_path):
    folder = write_frames(tmp_path / "v", range(1, 9))
    stream = load_batches([VideoSource("v", folder, False, 8)], batch_size=2, workers=1)
    next(stream)
    shutil.rmtree(folder)
    assert "disappeared" in [batch.pieces[0].problem for batch in stream][-1]


def test_images_of_one_size_travel_together(tmp_path):
    folder = write_frames(tmp_path / "v", [1, 3], size=(40, 30))
    for number, size in ((2, (20, 20)), (4, (30, 40))):
        picture(number, size).save(folder / f"{number:05d}.png")
    (batch,) = load_batches([VideoSource("v", folder, False, 4)], batch_size=8, workers=1)
    shapes = {tuple(pixels.shape): rows.tolist() for rows, pixels in batch.images}
    assert shapes == {(2, 30, 40, 3): [0, 2], (1, 20, 20, 3): [1], (1, 40, 30, 3): [3]}
    assert all(pixels.dtype == torch.uint8 for _, pixels in batch.images)


def test_large_frames_make_smaller_batches(three, monkeypatch):
    monkeypatch.setattr(batches, "MAX_BATCH_BYTES", 3 * 48 * 48 * 3)
    loaded, found = collect(three, 16)
    assert [batch.rows for batch in loaded] == [3] * 9 + [1]
    assert [batch.capacity for batch in loaded] == [4] * 9 + [16]
    assert len(found["c"]) == 20


def test_video_files_are_numbered_from_one(tmp_path):
    write_video(tmp_path / "clip.avi", frames=7)
    _, found = collect(list_videos([tmp_path]), 4)
    assert [frame for frame, _, _ in found["clip"]] == [1, 2, 3, 4, 5, 6, 7]
    assert [abs(float(p.float().mean()) - 10 * k) < 4 for k, _, p in found["clip"]] == [True] * 7


def test_only_a_few_batches_are_read_ahead_of_a_slow_caller(tmp_path, monkeypatch):
    folder = write_frames(tmp_path / "v", range(1, 61), size=(8, 8))
    read = []
    decode = batches.read_image
    monkeypatch.setattr(batches, "read_image", lambda path: read.append(1) or decode(path))
    stream = load_batches([VideoSource("v", folder, False, 60)], batch_size=2, workers=3)
    for taken in range(1, 4):
        next(stream)
        time.sleep(0.2)
        assert 2 * taken <= len(read) <= 2 * (taken + 3 + 1)
    stream.close()


def test_a_caller_that_stops_early_leaves_no_threads(three):
    before = threading.active_count()
    stream = load_batches(three, batch_size=1, workers=4)
    next(stream)
    stream.close()
    assert threading.active_count() == before
