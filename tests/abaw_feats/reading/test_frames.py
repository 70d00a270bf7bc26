from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from abaw_feats.reading.frames import list_videos
from abaw_feats.reading.image_index import index_images
from abaw_feats.reading.video_file import decode_video
from abaw_seq.data.frame_names import frame_files, frame_number
from abaw_seq.errors import UserError
from tests.abaw_feats.tiny_videos import write_frames, write_video


@pytest.fixture
def root(tmp_path):
    """cropped_aligned with three videos, a hidden folder and a stray picture."""
    root = tmp_path / "cropped_aligned"
    write_frames(root / "video2_left", [1, 2, 5])
    write_frames(root / "122-60-1920x1080-1", range(1, 9), suffix=".jpg")
    write_frames(root / "7", [10, 9])
    (root / ".cache").mkdir()
    (root / "contact_sheet.png").write_bytes(b"")
    return root


def summary(videos):
    return [(video.name, video.frame_count, video.fps) for video in videos]


def test_lists_a_folder_of_videos_by_name_with_counts_and_rates(root):
    expected = [("122-60-1920x1080-1", 8, 60.0), ("7", 2, None), ("video2_left", 3, None)]
    assert summary(list_videos([root])) == expected


def test_one_video_folder_is_one_video(root):
    assert summary(list_videos([root / "7"])) == [("7", 2, None)]


def test_a_text_file_lists_paths_relative_to_itself(root, tmp_path):
    listing = tmp_path / "lists" / "some.txt"
    listing.parent.mkdir()
    listing.write_text("# two of them\n\n../cropped_aligned/video2_left\n  ../cropped_aligned/7  \n")
    assert summary(list_videos([listing])) == [("video2_left", 3, None), ("7", 2, None)]
    listing.write_text("../cropped_aligned/absent\n")
    with pytest.raises(UserError, match=r"some.txt, line 1: .*absent"):
        list_videos([listing])


def test_a_listed_path_gives_the_name_of_its_folder(root, tmp_path):
    listing = tmp_path / "some.txt"
    listing.write_text(f"{root}/video2_left/../7/.\n")
    (video,) = list_videos([listing])
    assert (video.name, video.path) == ("7", root / "7")


def test_several_roots_join_and_a_video_named_twice_is_listed_once(root, tmp_path):
    write_frames(tmp_path / "more" / "video9", [1])
    videos = list_videos([root, tmp_path / "more", root / "7", f"{root}/../cropped_aligned/7"])
    assert [video.name for video in videos] == ["122-60-1920x1080-1", "7", "video2_left", "video9"]


def test_two_videos_of_one_name_are_refused_with_both_paths(root, tmp_path):
    write_frames(tmp_path / "more" / "7", [1])
    with pytest.raises(UserError, match=r"'7'.*cropped_aligned/7 and .*more/7"):
        list_videos([root, tmp_path / "more"])


def test_an_empty_folder_beside_others_is_listed_with_no_frames(root):
    (root / "empty").mkdir()
    assert [video.frame_count for video in list_videos([root]) if video.name == "empty"] == [0]


@pytest.mark.parametrize("make", ["absent", "empty", "unnumbered", "binary", "folders"])
def test_a_path_without_a_video_is_named(tmp_path, make):
    path = tmp_path / "input"
    if make == "empty":
        path.mkdir()
    elif make == "unnumbered":
        write_frames(path, [1])
        (path / "00001.png").rename(path / "cover.png")
    elif make == "binary":
        path.write_bytes(b"\x89HDF\r\n\x1a\n\0\0")
    elif make == "folders":
        (path / "a" / "b").mkdir(parents=True)
    with pytest.raises(UserError, match="input"):
        list_videos([path])


def test_frames_beside_videos_are_refused(root):
    (root / "00001.jpg").write_bytes(b"")
    with pytest.raises(UserError, match="also 122-60-1920x1080-1"):
        list_videos([root])


def test_frames_are_ordered_by_number_not_by_text(tmp_path):
    folder = tmp_path / "v"
    folder.mkdir()
    for name in ("frame_10.png", "9.jpg", "00100.JPG", "notes.txt", ".00001.jpg"):
        (folder / name).write_bytes(b"")
    numbers, names = frame_files(folder)
    assert numbers.tolist() == [9, 10, 100] and numbers.dtype == np.int32
    assert names == ["9.jpg", "frame_10.png", "00100.JPG"]


def test_two_files_of_one_number_and_files_without_number_are_errors(tmp_path):
    folder = write_frames(tmp_path / "v", [1, 2])
    (folder / "2.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="00002.png and 2.jpg are both frame 2"):
        frame_files(folder)
    (folder / "2.jpg").rename(folder / "cover.jpg")
    with pytest.raises(ValueError, match="cover.jpg has no frame number"):
        frame_files(folder)


@pytest.mark.parametrize(
    "name, number", [("00012.jpg", 12), ("a_3.png", 3), ("x.jpg", -1), ("9" * 11 + ".jpg", -1), ("٣.jpg", -1)]
)
def test_frame_number(name, number):
    assert frame_number(name) == number


def test_video_files_are_listed_and_decoded(tmp_path):
    path = write_video(tmp_path / "clip.mp4", frames=12)
    (video,) = list_videos([tmp_path])
    assert (video.name, video.is_file, video.frame_count, video.fps) == ("clip", True, 12, 25.0)
    frames = list(decode_video(path))
    assert len(frames) == 12 and frames[0].shape == (48, 64, 3)
    assert [abs(float(frame.mean()) - 10 * k) < 4 for k, frame in enumerate(frames, 1)] == [True] * 12


def test_a_broken_video_file_is_listed_and_fails_when_read(tmp_path):
    path = tmp_path / "broken.mp4"
    path.write_bytes(b"not a video at all" * 50)
    (video,) = list_videos([path])
    assert video.frame_count == 0
    with pytest.raises(ValueError, match="after 0 frames"):
        list(decode_video(path))


@pytest.mark.parametrize("name", ["__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", ".git", "@tmp"])
def test_what_systems_leave_is_no_video_at_any_level(root, name, caplog):
    write_frames(root / name / "7", [1])
    write_frames(root / "7" / name, [1])
    (root / "contact_sheet.png").unlink()
    assert len(list_videos([root])) == 3 and summary(list_videos([root / "7"])) == [("7", 2, None)]
    assert len(index_images([root])) == 13
    assert not caplog.messages


@pytest.mark.parametrize("name", ["clip.mp4", "00001.jpg", "video.txt", "take.mov"])
def test_a_folder_is_a_folder_whatever_its_name_looks_like(root, name):
    write_frames(root / name, [1, 2, 3])
    assert (name, 3, None) in summary(list_videos([root]))
    assert summary(list_videos([root / name])) == [(name, 3, None)]


@pytest.mark.parametrize("suffix", [".3gp", ".MTS", ".m2ts", ".ts", ".flv", ".mxf", ".ogv"])
def test_videos_of_cameras_are_listed(tmp_path, suffix):
    (tmp_path / f"clip{suffix}").write_bytes(b"")
    assert [(video.name, video.is_file) for video in list_videos([tmp_path])] == [("clip", True)]


def test_what_is_passed_over_is_said_once_and_short(root, caplog):
    for k in range(20):
        (root / "7" / f"note{k}.xml").write_bytes(b"")
    (root / "gone").symlink_to("nowhere")
    list_videos([root])
    (said,) = caplog.messages
    caplog.clear()
    index_images([root])
    assert len(caplog.messages) == 1 and "note0.xml" in caplog.text and "contact_sheet" not in caplog.text
    assert said.startswith("22 entries passed over, not frames or videos: ") and said.endswith(" and 17 more")


def test_folders_one_level_deeper_are_read_and_what_they_stand_beside_is_passed_over(tmp_path, caplog):
    write_frames(tmp_path / "cropped_aligned" / "a", [1, 2])
    write_frames(tmp_path / "cropped_aligned_new_50_vids" / "b", [1])
    (tmp_path / "raw").mkdir()
    write_video(tmp_path / "raw" / "c.mp4", frames=3)
    write_frames(tmp_path / "d", [1])
    (tmp_path / "annotations").mkdir()
    with caplog.at_level("INFO"):
        videos = list_videos([tmp_path])
    assert {video.name for video in videos} == {"a", "b", "c", "d"}
    assert "the videos in 3 folders of it are read too" in caplog.text and "annotations" in caplog.messages[-1]
    write_frames(tmp_path / "again" / "a", [1])
    with pytest.raises(UserError, match="two videos are called 'a': .*; leave one out"):
        list_videos([tmp_path])


@pytest.mark.parametrize("inner", ["x/y", "x/y/z"])
def test_folders_still_deeper_are_named(tmp_path, inner):
    write_frames(tmp_path / inner / "a", [1, 2])
    with pytest.raises(UserError, match=f"no frames there; there are some in .*/{inner}/a: name .*/{inner} instead"):
        list_videos([tmp_path])


@pytest.mark.parametrize("name", ["vidéo1", "Zoë", "두번째"])
def test_videos_are_named_and_listed_in_one_unicode_form(tmp_path, name):
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    write_frames(tmp_path / "v" / apart, [1])
    (tmp_path / "list.txt").write_text(f"v/{composed}\n")
    for path in (tmp_path / "v", tmp_path / "v" / composed, tmp_path / "list.txt"):
        assert [video.name for video in list_videos([path])] == [composed]
