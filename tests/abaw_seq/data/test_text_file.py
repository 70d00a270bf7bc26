"""Text files as people save them: each reads as the plain one does, or is refused with its line and the reason."""

from __future__ import annotations

import numpy as np
import pytest

from abaw_seq.data.annotations import read_annotations
from abaw_seq.data.text_file import read_lines
from abaw_seq.errors import UserError
from abaw_seq.results.submission.checking import read_submission
from abaw_seq.results.submission.wanted import read_image_list, read_lengths, wanted_rows

MTL = "image,valence,arousal,expression,aus\n"
ROWS = "".join(f"v{k % 2}/{k:05d}.jpg,0.{k},-0.{k},{k}{',0,1' * 6}\n" for k in range(8))
VA = "valence,arousal\n0.5,-0.25\n-0.125,1\n0,0\n"


def semicolons(text: str) -> bytes:
    return text.replace(",", ";").replace(".5", ",5").replace("0.1", "0,1").encode()


def indexed(text: str, start: int = 0, name: str = "") -> bytes:
    header, *rows = text.splitlines()
    return "\n".join([f"{name},{header}", *(f"{start + k},{row}" for k, row in enumerate(rows))]).encode()


def quoted(text: str) -> bytes:
    return "\n".join(",".join(f'"{field}"' for field in line.split(",")) for line in text.splitlines()).encode()


FORMS = {
    "UTF-8 with a mark": lambda text: text.encode("utf-8-sig"),
    "UTF-16 with a mark": lambda text: text.encode("utf-16"),
    "UTF-16, big-endian, with a mark": lambda text: b"\xfe\xff" + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16, big-endian, without a mark": lambda text: text.encode("utf-16-be"),
    "UTF-32 with a mark": lambda text: text.encode("utf-32"),
    "UTF-16 with the line ends of Windows": lambda text: text.replace("\n", "\r\n").encode("utf-16"),
    "line ends of old Macs": lambda text: text.replace("\n", "\r").encode(),
    "line ends converted twice": lambda text: text.replace("\n", "\r\r\n").encode(),
    "tabs": lambda text: text.replace(",", "\t").encode(),
    "semicolons": lambda text: text.replace(",", ";").encode(),
    "semicolons, and commas in numbers": semicolons,
    "row numbers": indexed,
    "row numbers from 1 under a name": lambda text: indexed(text, 1, "index"),
    "row numbers and tabs": lambda text: indexed(text).replace(b",", b"\t"),
    "quotes": quoted,
    "quotes and row numbers": lambda text: quoted(indexed(text).decode()),
    "blank lines and commas at the end": lambda text: (text.replace("\n", ",\n") + "\n\n  \n,,\n").encode(),
}


@pytest.mark.parametrize("form", FORMS)
def test_annotations_lists_and_submissions_of_every_form_read_as_the_plain_ones(tmp_path, form):
    change = FORMS[form]
    plain, other = tmp_path / "plain", tmp_path / "other"
    for folder, encode in ((plain, str.encode), (other, change)):
        (folder / "VA_Set" / "Train_Set").mkdir(parents=True)
        (folder / "validation_set.txt").write_bytes(encode(MTL + ROWS))
        (folder / "VA_Set" / "Train_Set" / "w.txt").write_bytes(encode(VA))
    expected, read = read_annotations(plain), read_annotations(other)
    assert read.videos.keys() == expected.videos.keys() == {"v0", "v1", "w"}
    for video, labels in expected.videos.items():
        assert read.videos[video].split == labels.split
        assert read.videos[video].frames.tolist() == labels.frames.tolist()
        np.testing.assert_array_equal(read.videos[video].labels, labels.labels)
    for name in ("validation_set.txt", "VA_Set/Train_Set/w.txt"):
        ours, theirs = read_submission(other / name), read_submission(plain / name)
        assert ours.keys() == theirs.keys()
        for video in ours:
            for task, values in theirs[video].outputs.items():
                np.testing.assert_array_equal(ours[video].outputs[task], values)
    assert read_image_list(other / "validation_set.txt").files[""].images == [f"v{k % 2}/{k:05d}.jpg" for k in range(8)]


@pytest.mark.parametrize("form", FORMS)
def test_lengths_and_lists_of_videos_of_every_form_read_as_the_plain_ones(tmp_path, form):
    lengths, names = tmp_path / "lengths.csv", tmp_path / "test_set.TXT"
    lengths.write_bytes(FORMS[form]("video,frames\nvidéo 1".replace(" ", "") + ",300\nw,7\n"))
    assert read_lengths(lengths) == {"vidéo1": 300, "w": 7}
    names.write_bytes(FORMS[form]("video\nw\nvidéo1\n"))
    assert list(wanted_rows(names, lengths, "va").files) == ["w.txt", "vidéo1.txt"]


def test_lists_of_images_need_no_header(tmp_path):
    rows = "v/00001.jpg\nv/00002.jpg\n"
    for text, edition, kind in (
        (rows, None, "mtl"),
        (rows, "va", "va"),
        ("image\n" + rows, None, "mtl"),
        ("image_location\n" + rows, "expr", "expr"),
        (rows.replace("g\n", "g,0,0\n"), None, "va"),
        (rows.replace("g\n", "g" + ",0" * 12 + "\n"), None, "au"),
    ):
        path = tmp_path / "list.txt"
        path.write_text(text)
        wanted = wanted_rows(path, None, edition)
        assert wanted.kind == kind and wanted.files[""].images == rows.split()


def test_suffixes_in_capitals_are_read(tmp_path):
    (tmp_path / "TRAINING_SET.TXT").write_text(MTL + ROWS)
    (tmp_path / "validation_set.Csv").write_text(MTL + "x/00001.jpg,0,0,0" + ",0" * 12)
    assert {video: one.split for video, one in read_annotations(tmp_path).videos.items()} == {
        "v0": "train", "v1": "train", "x": "val"
    }  # fmt: skip


REFUSED = {
    r"train.txt, line 3: holds characters that are not UTF-8; save the file as UTF-8": (
        MTL + "v/1.jpg,0,0,0" + ",0" * 12 + "\nvidéo/1.jpg,0,0,0" + ",0" * 12
    ).encode("latin-1"),
    r"train.txt, line 2: holds characters that are not UTF-8": (MTL + "Видео/1.jpg,0,0,0" + ",0" * 12).encode("cp1251"),
    r"train.txt, line 2: 16 fields expected, not 3": (MTL + "v/1.jpg;0;0\n").replace(",", ";").encode("utf-16"),
    r"train.txt, line 3: row number 5 is out of order, but line k under the header is frame k": (
        b",valence,arousal\n0,0,0\n5,0,0\n"
    ),
    r"train.txt, line 2: row number 7 is out of order": (b",valence,arousal\n7,0,0\n8,0,0\n"),
    r"train.txt, line 3: 2 fields expected, not 1": "valence\tarousal\n0\t0\n0,5\n".encode("utf-16-le"),
    r"its first line '0.1,0.2' is numbers: put the header of its task above": b"0.1,0.2\n0.1,0.3\n",
    r"train.txt: no annotations: it is empty": b"\r\n\r\n",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_certain_is_refused_with_its_line_and_the_reason(tmp_path, reason):
    path = tmp_path / "train.txt"
    path.write_bytes(REFUSED[reason])
    with pytest.raises(UserError, match=reason):
        read_annotations(path)


def test_characters_behind_an_image_path_do_not_matter(tmp_path):
    path = tmp_path / "test_set.txt"
    path.write_bytes(MTL.encode() + "v/00001.jpg\nv/00002.jpg,café\n".encode("latin-1"))
    assert read_image_list(path).files[""].images == ["v/00001.jpg", "v/00002.jpg"]
    assert read_annotations(path).videos["v"].frames.tolist() == [1, 2]
    path.write_bytes(MTL.encode() + "v/00001.jpg\ncafé/v/00002.jpg\n".encode("latin-1"))
    with pytest.raises(UserError, match="line 3: holds characters that are not UTF-8"):
        read_image_list(path)


def test_characters_lost_in_utf_16_are_refused_where_they_name_a_video(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes((MTL + "vX/1.jpg,0,0,0" + ",0" * 12).encode("utf-16-le").replace(b"X\0", b"\x05\xd8"))
    with pytest.raises(UserError, match="line 2: holds characters that are not UTF-8"):
        read_annotations(path)
    path.write_bytes("a\nb\n".encode("utf-16")[:-1])
    assert read_lines(path)[:2] == ["a", "b\udcff"]


def test_lengths_in_another_encoding_are_refused(tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_bytes("a,3\nvidéo,5\n".encode("cp1252"))
    with pytest.raises(UserError, match="lengths.txt, line 2: holds characters that are not UTF-8"):
        read_lengths(path)


def test_the_folder_in_which_nothing_can_be_read_names_what_was_passed_over(tmp_path):
    (tmp_path / "labels.txt").write_text("0.1,0.2\n0.1,0.3\n")
    (tmp_path / "notes.csv").write_bytes("Notizen über Videos\n".encode("latin-1"))
    with pytest.raises(UserError, match="no annotations in .*; labels.txt is passed over: .* numbers.*; notes.csv is"):
        read_annotations(tmp_path)


def test_a_path_that_has_a_semicolon_is_no_table_of_semicolons(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("my;video/00001.jpg\nmy;video/00002.jpg\n")
    assert list(read_annotations(path).videos) == ["my;video"]
