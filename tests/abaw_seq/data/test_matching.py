"""Frames and labels: what belongs together, and what is said of the rest."""

import unicodedata

import numpy as np
import pytest

from abaw_seq.data.annotations import read_annotations
from abaw_seq.data.matching import log_matches

VA = "valence,arousal\n"


def per_video(root, **lines):
    """Files of the per-task editions, in which line k has valence k / 100."""
    for video, count in lines.items():
        path = root / "VA_Set" / "Train_Set" / f"{video}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(VA + "".join(f"{k / 100},0\n" for k in range(1, count + 1)))
    return read_annotations(root)


def valence(annotations, video, frames):
    return (annotations.for_frames(video, np.array(frames))[:, 0] * 100).round().tolist()


@pytest.mark.parametrize(
    "frames, lines",
    [
        ([0, 1, 2, 3], [1, 2, 3, 4]),  # all frames, from 0
        ([0, 2, 3], [1, 3, 4]),  # some without a face
        ([0], [1]),
        ([1, 2, 3, 4], [1, 2, 3, 4]),  # as Aff-Wild2 counts
        ([2, 4], [2, 4]),
        ([1, 2, 3, 4, 5], [1, 2, 3, 4, None]),  # more frames than lines
    ],
)
def test_lines_belong_to_frames_from_the_first_one_on(tmp_path, frames, lines):
    annotations = per_video(tmp_path, v=4)
    expected = [np.nan if line is None else line for line in lines]
    np.testing.assert_array_equal(valence(annotations, "v", frames), expected)


@pytest.mark.parametrize("frames", [[0, 1, 2, 3, 4], [0, 4], [0, 1, 99]])
def test_a_frame_0_and_too_many_frames_leave_the_video_without_labels_and_are_said(tmp_path, frames, caplog):
    annotations = per_video(tmp_path, v=4)
    assert np.isnan(valence(annotations, "v", frames)).all()
    with caplog.at_level("INFO"):
        log_matches({"v": np.array(frames)}, annotations)
    assert f"v: no labels, for its frames are 0 to {frames[-1]} and its annotation has 4 lines" in caplog.text


def test_image_names_say_the_frame_also_from_0(tmp_path):
    rows = "".join(f"v/{k:05d}.jpg,0.0{k},0,1" + ",0" * 12 + "\n" for k in range(4))
    (tmp_path / "train.txt").write_text("image,valence,arousal,expression,aus\n" + rows)
    assert valence(read_annotations(tmp_path), "v", [0, 1, 2, 3]) == [0, 1, 2, 3]


def test_frames_counted_from_0_are_said_with_the_videos_that_may_be_so_too(tmp_path, caplog):
    annotations = per_video(tmp_path, a=3, b=3, c=3)
    with caplog.at_level("INFO"):
        log_matches({"a": np.arange(3), "b": np.array([1, 2]), "c": np.arange(3)}, annotations)
    assert "labels: 3 of 3 videos, 8 of 8 frames" in caplog.text
    assert "frames counted from 0 in 2 videos (a, c): line k of their annotation is taken for" in caplog.text
    assert "1 other videos have no frame 0 and are taken to count from 1: b" in caplog.text


def test_names_that_match_nothing_are_said_with_the_nearest_one(tmp_path, caplog):
    annotations = per_video(tmp_path, **{"30-30-1920x1080_left": 2, "video7": 2, "same": 2, "apart": 2})
    videos = {"30-30-1920x1080": np.array([1]), "vidoe7": np.array([1]), "same": np.array([1])}
    with caplog.at_level("INFO"):
        log_matches(videos | {"apart": np.array([8, 9])}, annotations)
    assert "labels: 1 of 4 videos, 1 of 5 frames" in caplog.text
    assert "2 videos are not annotated: 30-30-1920x1080 (30-30-1920x1080_left?), vidoe7 (video7?)" in caplog.text
    assert "2 annotated videos are not among these: 30-30-1920x1080_left (30-30-1920x1080?), video7" in caplog.text
    assert "1 annotated videos have no frame with a label: apart (frames 8 to 9, annotated 1 to 2)" in caplog.text


@pytest.mark.parametrize("name", ["vidéo1", "Zoë_right", "두번째"])
@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_match_in_every_unicode_form(tmp_path, name, forms, caplog):
    in_features, in_files = (unicodedata.normalize(form, name) for form in forms)
    annotations = per_video(tmp_path, **{in_files: 2})
    assert list(annotations.videos) == [unicodedata.normalize("NFC", name)]
    assert valence(annotations, in_features, [1, 2]) == [1, 2]
    with caplog.at_level("INFO"):
        log_matches({in_features: np.array([1, 2])}, annotations)
    assert "labels: 1 of 1 videos, 2 of 2 frames" in caplog.text and len(caplog.records) == 1
