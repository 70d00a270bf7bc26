"""From the names of image files to frame numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from abaw_seq.data.folder import list_folder
from abaw_seq.data.frame_names import MAX_FRAME_NUMBER, frame_files, frame_number, frame_numbers, image_names

words = st.text("abcXYZ_-. äß", max_size=8)
frames = st.lists(st.integers(0, 99_999), min_size=1, max_size=20, unique=True)


@given(words, st.integers(0, 9), frames, st.sampled_from([".jpg", ".PNG", ".tiff"]))
def test_a_single_number_is_the_frame_however_it_is_padded(prefix, width, numbers, suffix):
    names = [f"{prefix}{n:0{width}d}{suffix}" for n in numbers]
    assert frame_numbers(names).tolist() == numbers == [frame_number(name) for name in names]


@given(st.integers(0, 999), st.sampled_from(["_", "-30-1920x1080_", "_face_", "_person"]), frames)
def test_behind_a_number_that_stays_the_last_one_is_the_frame(clip, between, numbers):
    names = [f"clip{clip}{between}{n:05d}.jpg" for n in numbers]
    if len(names) > 1:
        assert frame_numbers(names).tolist() == numbers


@given(frames.filter(lambda n: len(n) > 1), st.sampled_from(["_", "-", "_face", "_face_", "_id"]), st.data())
def test_before_the_number_of_a_face_stands_the_frame(numbers, between, data):
    faces = data.draw(st.lists(st.integers(0, 5), min_size=len(numbers), max_size=len(numbers)))
    by_frame = [face for _, face in sorted(zip(numbers, faces, strict=True))]
    if (np.diff(by_frame) > 0).all():
        faces = [0] * len(numbers)  # numbers that both rise are told apart by a word alone
    names = [f"{n:05d}{between}{face}.jpg" for n, face in zip(numbers, faces, strict=True)]
    assert frame_numbers(names).tolist() == numbers


@pytest.mark.parametrize(
    "names, numbers",
    [
        (["00001_face3.jpg", "00002_face2.jpg", "00003_face1.jpg"], [1, 2, 3]),
        (["00001_0.jpg", "00002_0.jpg"], [1, 2]),
        (["frame_0001_face_2.png", "frame_0002_face_2.png"], [1, 2]),
        (["frame_0001_face_1.png", "frame_0002_face_2.png", "frame_0005_face_3.png"], [1, 2, 5]),
        (["img9_1.jpg", "img10_1.jpg", "img11_0.jpg"], [9, 10, 11]),
        (["7_1620000000123.jpg", "8_1620000000456.jpg"], [7, 8]),
        (["00012_face0.jpg"], [12]),
        (["122-60-1920x1080-1_00007.jpg", "122-60-1920x1080-1_00003.jpg"], [7, 3]),
        (["2021-05-03_2.jpg", "2021-05-03_10.jpg"], [2, 10]),
        (["a.jpg", "00002_1.jpg"], [-1, 1]),
        (["cover.jpg", "1.jpg"], [-1, 1]),
        (["9" * 30 + "_1.jpg", "8" * 30 + "_2.jpg"], [1, 2]),
        ([f"{MAX_FRAME_NUMBER + 1}.jpg"], [-1]),
        ([], []),
    ],
)
def test_frame_numbers(names, numbers):
    assert frame_numbers(names).tolist() == numbers


@pytest.mark.parametrize(
    "names", [["00001_0.jpg", "00001_1.jpg", "00002_0.jpg"], ["f1_face1.jpg", "f1_face2.jpg", "f2_face1.jpg"]]
)
def test_several_faces_of_one_frame_are_refused_with_advice_that_fits(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match="end in the same number; .*give each face a folder of its own"):
        frame_files(tmp_path)


def test_images_of_every_suffix_count_and_what_cannot_be_read_keeps_its_place(tmp_path):
    for name in ("1.jfif", "2.TIF", "3.webp", "4.bmp", "5.jpe", "notes.txt", "6.xyz", "._7.jpg", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "8.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "9.jpg").mkdir()
    numbers, names = frame_files(tmp_path)
    assert numbers.tolist() == [1, 2, 3, 4, 5, 8, 9] and names[-1] == "9.jpg"
    (tmp_path / "v" / "1.jpg").mkdir(parents=True)
    assert image_names(list_folder(tmp_path / "v")) == []  # nothing but a folder
