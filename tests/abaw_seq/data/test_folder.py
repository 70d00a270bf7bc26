"""What counts in a folder, and the one form of names."""

import os
import unicodedata

import pytest

from abaw_seq.data.folder import a_few, is_dropping, list_folder, on_disk, video_name, walk

DROPPINGS = [
    "__MACOSX", "@eaDir", "._00001.jpg", "Thumbs.db", "THUMBS.DB", ".ipynb_checkpoints", ".git", "$RECYCLE.BIN",
    "System Volume Information", "lost+found", "desktop.ini", "#recycle", "#snapshot", ".AppleDouble", "@tmp",
    ".Trash-1000", ".fseventsd", "RECYCLER", "Network Trash Folder", "~$labels.csv", "labels.txt~", "__pycache__",
    "Icon\r",
]  # fmt: skip


@pytest.mark.parametrize("name", DROPPINGS)
def test_what_systems_and_editors_leave_counts_for_nothing_at_any_level(tmp_path, name):
    (tmp_path / "v" / name / "inner").mkdir(parents=True)
    (tmp_path / name).write_bytes(b"x")
    assert is_dropping(name)
    listings = [(one.path.name, one.folders, one.files, one.dangling) for one in walk(tmp_path)]
    assert listings == [(tmp_path.name, ["v"], [], []), ("v", [], [], [])]


@pytest.mark.parametrize("name", ["027", "00001.jpg", "tmp", "recycle", "video.txt", "a~b", "$100", "MACOSX", "eaDir"])
def test_ordinary_names_count(name):
    assert not is_dropping(name)


def test_a_folder_is_a_folder_whatever_its_name_and_links_and_pipes_are_told_apart(tmp_path):
    for name in ("clip.mp4", "00001.jpg", "video.txt"):
        (tmp_path / name).mkdir()
    (tmp_path / "real.jpg").write_bytes(b"x")
    (tmp_path / "link.jpg").symlink_to("real.jpg")
    (tmp_path / "linked").symlink_to("clip.mp4")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    listing = list_folder(tmp_path)
    assert listing.folders == ["00001.jpg", "clip.mp4", "linked", "video.txt"]
    assert listing.files == ["link.jpg", "real.jpg"] and listing.dangling == ["gone.jpg"]


def test_links_are_walked_through_and_not_in_circles(tmp_path):
    (tmp_path / "there" / "deep").mkdir(parents=True)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "linked").symlink_to(tmp_path / "there")
    (tmp_path / "there" / "back").symlink_to(tmp_path / "here")
    walked = [os.path.relpath(one.path, tmp_path) for one in walk(tmp_path / "here")]
    assert walked == ["here", "here/linked", "here/linked/deep"]


@pytest.mark.parametrize("name", ["vidéo1", "Åsa_left", "두번째", "video1"])
def test_names_have_one_form_and_are_looked_up_in_the_form_on_disk(tmp_path, name):
    composed, apart = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    assert video_name(composed) == video_name(apart) == composed
    (tmp_path / apart).mkdir()
    assert on_disk(tmp_path / composed).is_dir() and on_disk(tmp_path / apart).is_dir()
    assert on_disk(tmp_path / "absent") == tmp_path / "absent"


def test_long_lists_are_shown_in_part():
    assert a_few([1, 2]) == "1, 2" and a_few(range(1000)) == "0, 1, 2, 3, 4 and 995 more"
