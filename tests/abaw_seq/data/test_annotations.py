from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_seq.data import label_text
from abaw_seq.data.annotations import (
    read_annotations,
    write_mtl_annotations,
    write_task_annotations,
)
from abaw_seq.data.video_labels import SUMMARY_HEADER
from abaw_seq.errors import UserError
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS

MTL = "image,valence,arousal,expression,aus\n"
VA = "valence,arousal\n"
EXPR = ",".join(EXPRESSIONS) + "\n"
EXPR_7 = ",".join(EXPRESSIONS[:7]) + "\n"
AU = ",".join(ACTION_UNITS) + "\n"
AU_2020 = "AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25\n"
NO_UNITS = ",-1" * 12
NAN = float("nan")


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def assert_rows(actual: np.ndarray, expected: list[list[float]]) -> None:
    np.testing.assert_array_equal(actual, np.array(expected, np.float32))


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("MTL_Challenge/train_set.txt", "train"),
        ("MTL_Challenge/validation_set.txt", "val"),
        ("training_set_annotations.txt", "train"),
        ("validation_set_annotations.txt", "val"),
        ("my_test.txt", "test"),
        ("train_val.txt", None),
        ("labels.txt", None),
        ("test_set_examples/MTL.txt", "test"),
        ("Validation_Set/labels.txt", "val"),
    ],
)
def test_a_multi_task_file_of_each_edition_is_read_with_its_split(tmp_path, name, split):
    text = MTL + (
        "426/00001.jpg,0.0,0.05,0,0,0,0,0,0,1,0,0,0,0,0,0\n"
        f"video48/02518.jpg,-5.0,-5.0,4{NO_UNITS}\n"
        "426/00003.jpg,-0.511,0.25,-1,1,0,1,0,1,0,1,0,1,0,1,0\n"
    )
    put(tmp_path / name, text)
    for path in (tmp_path, tmp_path / name):
        annotations = read_annotations(path)
        assert list(annotations.videos) == ["426", "video48"]
        video = annotations.videos["426"]
        assert video.split == split
        assert video.frames.dtype == np.int32 and video.frames.tolist() == [1, 3]
        assert video.labels.dtype == np.float32
        assert_rows(
            video.labels,
            [[0, 0.05, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], [-0.511, 0.25, NAN, *([1, 0] * 6)]],
        )
        assert_rows(annotations.videos["video48"].labels, [[NAN, NAN, 4] + [NAN] * 12])


def test_a_missing_valence_or_arousal_takes_both_away_and_units_are_masked_one_by_one(tmp_path):
    rows = ["a/1.jpg,-5,0.5,1" + ",-1" + ",1" * 11, "a/2.jpg,0.5,-5.00,-1.0" + ",0.0" * 12]
    video = read_annotations(put(tmp_path / "x.txt", MTL + "\n".join(rows))).videos["a"]
    assert_rows(video.labels, [[NAN, NAN, 1, NAN] + [1] * 11, [NAN, NAN, NAN] + [0] * 12])


def test_blanks_line_ends_byte_order_mark_and_trailing_commas_are_tolerated_and_counted(tmp_path):
    text = (
        "\ufeffimage, valence, arousal,expression,aus,\r\n"
        " a/00001.jpg , 0.25,\t-0.5, 3" + " ,0" * 12 + " \r\n"
        "\r\n"
        "cropped_aligned/a/00002.jpg,1e-3,+.5,3." + ",1" * 12 + ",,\r\n"
    )
    annotations = read_annotations(put(tmp_path / "train.txt", text))
    assert_rows(annotations.videos["a"].labels, [[0.25, -0.5, 3] + [0] * 12, [0.001, 0.5, 3] + [1] * 12])
    assert annotations.counts["lines that end with a comma"] == 1
    assert annotations.counts["blank lines skipped"] == 1


def test_duplicates_are_joined_counted_and_the_first_label_is_kept(tmp_path):
    row = "a/00002.jpg,0.5,0.5,1" + ",0" * 12
    text = MTL + "\n".join(
        [
            row,
            "b/00001.jpg,0.1,0.1,2" + NO_UNITS,
            row,
            "a/00001.jpg,0.3,0.3,2" + ",1" * 12,
            "a/00002.jpg,0.7,0.5,1" + ",0" * 12,
            "b/00001.jpg,0.1,0.1,-1" + ",1" * 12,
        ]
    )
    annotations = read_annotations(put(tmp_path / "train.txt", text))
    assert annotations.videos["a"].frames.tolist() == [1, 2]
    assert_rows(annotations.videos["a"].labels, [[0.3, 0.3, 2] + [1] * 12, [0.5, 0.5, 1] + [0] * 12])
    assert_rows(annotations.videos["b"].labels, [[0.1, 0.1, 2] + [1] * 12])
    assert annotations.counts["duplicate rows of a file joined"] == 3
    assert annotations.counts["duplicate rows with another label, the first kept"] == 1


@pytest.mark.parametrize(
    ("va", "expr", "au", "train", "val"),
    [
        ("VA_Set", "EXPR_Set", "AU_Set", "Training_Set", "Validation_Set"),
        ("VA_Set", "EXPR_Set", "AU_Set", "Train_Set", "Validation_Set"),
        (
            "VA_Estimation_Challenge",
            "EXPR_Classification_Challenge",
            "AU_Detection_Challenge",
            "Train_Set",
            "Validation_Set",
        ),
        (
            "VA_Estimation_Challenge",
            "EXPR_Recognition_Challenge",
            "AU_Detection_Challenge",
            "Train_Set",
            "Validation_Set",
        ),
    ],
)
def test_the_three_tasks_of_an_edition_are_merged_by_video_and_frame(tmp_path, va, expr, au, train, val):
    put(tmp_path / va / train / "10-60-1280x720.txt", VA + "0.602,0.389\n-5,-5\n0.1,-0.1\n")
    put(tmp_path / expr / train / "10-60-1280x720.txt", EXPR + "4\n-1\n")
    put(tmp_path / au / train / "10-60-1280x720.txt", AU + "0,0,0,0,1,1,0,0,0,0,1,0\n" + ",".join(["-1"] * 12))
    put(tmp_path / au / val / "10-60-1280x720_right.txt", AU + ",".join("1" * 12) + "\n")
    annotations = read_annotations(tmp_path)
    video = annotations.videos["10-60-1280x720"]
    assert video.frames.tolist() == [1, 2, 3] and video.split == "train"
    assert_rows(
        video.labels,
        [
            [0.602, 0.389, 4, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1, 0],
            [NAN] * 15,
            [0.1, -0.1] + [NAN] * 13,
        ],
    )
    right = annotations.videos["10-60-1280x720_right"]
    assert right.split == "val"
    assert_rows(right.labels, [[NAN] * 3 + [1] * 12])
    assert annotations.counts == {"label files read": 4}


def test_the_seven_classes_and_eight_units_of_2020_map_by_name(tmp_path):
    put(tmp_path / "AU_Set/Training_Set/v.txt", AU_2020 + "1,0,1,0,1,0,1,0\n-1,-1,-1,-1,-1,-1,-1,-1\n")
    put(tmp_path / "EXPR_Set/Training_Set/v.txt", EXPR_7 + "6\n0\n")
    annotations = read_annotations(tmp_path)
    expected = {"AU1": 1, "AU2": 0, "AU4": 1, "AU6": 0, "AU12": 1, "AU15": 0, "AU25": 0, "expression": 6}
    first, second = annotations.videos["v"].labels
    assert_rows(first, [expected.get(name, NAN) for name in LABEL_COLUMNS])
    assert second[2] == 0 and np.isnan(np.delete(second, 2)).all()
    assert annotations.counts["AU20 labels left out, not one of the twelve units"] == 1


def test_classes_in_another_order_map_by_name(tmp_path):
    put(tmp_path / "v.txt", "Other, Happiness ,Neutral\n0\n1\n2\n")
    assert read_annotations(tmp_path / "v.txt").videos["v"].labels[:, 2].tolist() == [7, 4, 0]


def test_two_sources_join_and_their_conflicts_are_counted(tmp_path):
    mtl = put(tmp_path / "train_set.txt", MTL + "v/00002.jpg,0.5,0.5,3" + NO_UNITS + "\n")
    expr = put(tmp_path / "EXPR_Set/Train_Set/v.txt", EXPR + "1\n2\n")
    annotations = read_annotations(mtl, expr.parent.parent.parent)
    assert annotations.videos["v"].frames.tolist() == [1, 2]
    assert annotations.videos["v"].labels[:, 2].tolist() == [1, 3]
    assert annotations.videos["v"].labels[1, 0] == 0.5
    assert annotations.counts["rows of two files with another label, the first kept"] == 1
    assert annotations.counts["label files read"] == 2


def test_a_video_of_two_splits_is_validation_without_the_training_labels(tmp_path):
    put(tmp_path / "VA_Set/Train_Set/v.txt", VA + "0.1,0.1\n")
    put(tmp_path / "EXPR_Set/Validation_Set/v.txt", EXPR + "4\n")
    put(tmp_path / "AU_test_set_release.txt", "v\nother\n")
    annotations = read_annotations(tmp_path)
    assert annotations.videos["v"].split == "val"
    assert_rows(annotations.videos["v"].labels, [[NAN, NAN, 4] + [NAN] * 12])
    assert annotations.counts["videos in several splits, val before train before test"] == 1
    assert annotations.counts["rows left out, of another split than their video"] == 1
    assert annotations.videos["other"].split == "test"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("MTL_Challenge_test_set_release.txt", MTL + "b/00003.jpg\nb/00001.jpg\na/00002.jpg\nb/00003.jpg\n"),
        ("test_set_examples/MTL.txt", MTL + "b/00003.jpg,\nb/00001.jpg,\na/00002.jpg,\nb/00003.jpg,\n"),
        ("list.txt", "b/00003.jpg\nb/00001.jpg\na/00002.jpg\nb/00003.jpg"),
        (
            "CVPR_5th_ABAW_VA_test_set_sample.txt",
            "image_location,valence,arousal\nb/00003.jpg,\nb/00001.jpg,0.1,5\na/00002.jpg\nb/00003.jpg,7\n",
        ),
        (
            "CVPR_6th_ABAW_Expr_test_set_example.txt",
            "image_location," + EXPR + "b/00003.jpg\nb/00001.jpg,0\na/00002.jpg\nb/00003.jpg\n",
        ),
    ],
)
def test_lists_and_templates_of_a_test_set_give_frames_without_labels(tmp_path, name, text):
    annotations = read_annotations(put(tmp_path / name, text))
    assert {video: labels.frames.tolist() for video, labels in annotations.videos.items()} == {
        "a": [2],
        "b": [1, 3],
    }
    assert all(video.split == "test" and np.isnan(video.labels).all() for video in annotations.videos.values())
    assert annotations.counts["duplicate rows of a file joined"] == 1
    commas = {"MTL.txt": 4, "CVPR_5th_ABAW_VA_test_set_sample.txt": 1}
    assert annotations.counts["lines that end with a comma"] == commas.get(Path(name).name, 0)


def test_a_list_of_videos_gives_test_videos_without_frames(tmp_path):
    path = put(tmp_path / "names/Action_Unit_Detection_Challenge_test_set_release.txt", "426\n2-30-640x360_left\n")
    for source in (path, tmp_path):
        videos = read_annotations(source).videos
        assert list(videos) == ["2-30-640x360_left", "426"]
        assert all(video.split == "test" and video.labels.shape == (0, 15) for video in videos.values())


@pytest.mark.parametrize(
    ("text", "line", "reason", "shown"),
    [
        (MTL + "a/1.jpg,0,0,1,0,0\n", 2, "16 fields expected, not 6", "a/1.jpg,0,0,1,0,0"),
        (MTL + "\na/1.jpg,0,zero,1" + ",0" * 12, 3, "field 3 is not a number", "a/1.jpg,0,zero,1"),
        (MTL + "a/1.jpg,0,nan,1" + ",0" * 12, 2, "field 3 is not a number", "nan"),
        (MTL + "a/1.jpg,0,1_0,1" + ",0" * 12, 2, "field 3 is not a number", "1_0"),
        (MTL + "a/1.jpg,0,,1" + ",0" * 12, 2, "field 3 is not a number", "a/1.jpg,0,,1"),
        (MTL + "a/1.jpg,0,1.5,1" + ",0" * 12, 2, "1.5 is not valid for arousal (-1 to 1, ", "1.5"),
        (MTL + "a/1.jpg,-4,0,1" + ",0" * 12, 2, "-4 is not valid for valence", "-4"),
        (MTL + "a/1.jpg,0,0,8" + ",0" * 12, 2, "8 is not valid for expression (0 to 7, ", "8"),
        (MTL + "a/1.jpg,0,0,1.5" + ",0" * 12, 2, "1.5 is not valid for expression", "1.5"),
        (MTL + "a/1.jpg,0,0,1,2" + ",0" * 11, 2, "2 is not valid for AU1 ", "a/1.jpg"),
        (MTL + "1.jpg,0,0,1" + ",0" * 12, 2, "no image path", "1.jpg"),
        (MTL + "a/one.jpg,0,0,1" + ",0" * 12, 2, "no image path", "one.jpg"),
        (MTL + "../1.jpg,0,0,1" + ",0" * 12, 2, "no image path", "../1.jpg"),
        (VA + "0.1,0.2\n0.1\n", 3, "2 fields expected, not 1", "0.1"),
        (VA + "0.1,0.2\n\n0.1,0.2\n", 3, "empty", "''"),
        (EXPR_7 + "3\n7\n", 3, "7 is not valid for expression (0 to 6, ", "7"),
        (EXPR + "3\n4,5\n", 3, "1 field expected, not 2", "4,5"),
        (AU_2020 + "0,0,0,0,0,0,-5,0\n", 2, "-5 is not valid for AU20", "-5"),
    ],
)
def test_a_faulty_line_is_named_with_file_number_and_text(tmp_path, text, line, reason, shown):
    path = put(tmp_path / "v.txt", text)
    with pytest.raises(UserError) as error:
        read_annotations(tmp_path)
    message = str(error.value)
    assert message.startswith(f"{path}, line {line}: ")
    assert reason in message and shown in message and "\n" not in message


def test_the_first_of_several_faults_is_named_whatever_its_kind(tmp_path):
    good, range_, number, fields = "0.1,0.1", "0.1,3", "0.1,x", "0.1"
    for order in ([range_, number, fields], [number, fields, range_], [fields, range_, number]):
        path = put(tmp_path / "v.txt", VA + "\n".join([good, good, *order, good]))
        with pytest.raises(UserError, match="line 4: "):
            read_annotations(path)


def test_text_that_holds_no_annotations_is_passed_over_in_a_folder_and_refused_by_name(tmp_path):
    readme = put(tmp_path / "README.txt", "These are, as agreed, the annotations.\n")
    with pytest.raises(UserError, match="no annotations in"):
        read_annotations(tmp_path)
    put(tmp_path / "train_set.txt", MTL + "a/1.jpg,0,0,1" + ",0" * 12)
    assert read_annotations(tmp_path).counts["text files skipped, not annotations"] == 1
    with pytest.raises(UserError, match=r"README.txt: no annotations.*These are, as agreed"):
        read_annotations(readme)
    with pytest.raises(UserError, match="no such file"):
        read_annotations(tmp_path / "absent")


def test_a_file_named_twice_is_read_once(tmp_path):
    path = put(tmp_path / "train_set.txt", MTL + "a/1.jpg,0,0,1" + ",0" * 12)
    annotations = read_annotations(tmp_path, path)
    assert annotations.counts["label files read"] == 1
    assert annotations.counts["rows of two files with another label, the first kept"] == 0


def test_labels_are_aligned_by_frame_number(tmp_path):
    rows = [f"a/{k:05d}.jpg,{k / 100},0,1" + ",0" * 12 for k in (2, 5, 9)]
    annotations = read_annotations(put(tmp_path / "train.txt", MTL + "\n".join(rows)))
    labels = annotations.for_frames("a", np.array([1, 2, 9, 5, 10]))
    np.testing.assert_array_equal(labels[:, 0], np.array([NAN, 0.02, 0.09, 0.05, NAN], np.float32))
    assert annotations.for_frames("unknown", np.array([1, 2])).shape == (2, 15)
    assert np.isnan(annotations.for_frames("unknown", np.array([1, 2]))).all()
    assert annotations.for_frames("a", np.zeros(0, np.int32)).shape == (0, 15)


def test_the_summary_counts_labels_by_split_and_everything_that_was_joined(tmp_path):
    row = "a/1.jpg,0,0,1" + ",0" * 12
    put(
        tmp_path / "train_set.txt",
        MTL + f"{row}\n{row}\na/2.jpg,-5,-5,-1{NO_UNITS}\na/3.jpg,-5,-5,1{NO_UNITS}\n",
    )
    put(tmp_path / "validation_set.txt", MTL + f"b/1.jpg,0,0,-1{NO_UNITS}\n")
    rows = read_annotations(tmp_path).summary_rows()
    assert rows[0] == ["train", "1", "3", "1", "2", "1", "1"]
    assert rows[1] == ["val", "1", "1", "1", "0", "0", "0"]
    assert ["duplicate rows of a file joined", "", "1", "", "", "", ""] in rows
    assert {len(row) for row in rows} == {len(SUMMARY_HEADER)}


def test_blocks_do_not_show_wherever_they_end(tmp_path, monkeypatch):
    rows = [f"v{k % 3}/{k // 2:05d}.jpg,0.{k},-0.{k},{k % 8 - (k % 5 == 0)}" + f",{k % 2}" * 12 for k in range(60)]
    path = put(tmp_path / "train.txt", MTL + "\n".join(rows) + "\n")
    whole = read_annotations(path)
    for size in (1, 50, 64, 333):
        monkeypatch.setattr(label_text, "BLOCK_BYTES", size)
        blocks = read_annotations(path)
        assert blocks.counts == whole.counts
        for video, expected in whole.videos.items():
            assert blocks.videos[video].frames.tolist() == expected.frames.tolist()
            assert_rows(blocks.videos[video].labels, expected.labels)
    path.write_text(path.read_text().replace("v2/00029.jpg", "v2/00029x.jpg"))
    with pytest.raises(UserError, match=f"line {rows.index(next(r for r in rows if 'v2/00029' in r)) + 2}: "):
        read_annotations(path)


label_rows = st.tuples(
    st.one_of(st.none(), st.tuples(*[st.floats(-1, 1, width=32)] * 2)),
    st.one_of(st.none(), st.integers(0, 7)),
    st.lists(st.sampled_from([None, 0, 1]), min_size=12, max_size=12),
)


def as_labels(rows: list[tuple]) -> np.ndarray:
    blank = [((NAN, NAN) if va is None else va, expression, units) for va, expression, units in rows]
    table = [[*va, expression, *units] for va, expression, units in blank]
    return np.array(table, dtype=np.float32).reshape(-1, 15)


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.from_regex(r"[a-z0-9][a-z0-9_-]{0,9}", fullmatch=True),
        st.dictionaries(st.integers(0, 99999), label_rows, min_size=1, max_size=6),
        min_size=1,
        max_size=4,
    ),
    st.randoms(use_true_random=False),
)
def test_multi_task_annotations_survive_write_and_read(videos, random):
    rows = [
        (f"{video}/{frame:05d}.jpg", as_labels([row])[0])
        for video, frames in videos.items()
        for frame, row in frames.items()
    ]
    random.shuffle(rows)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "training_set_annotations.txt"
        write_mtl_annotations(path, rows + rows[:1])
        annotations = read_annotations(path)
    assert set(annotations.videos) == set(videos)
    assert annotations.counts["duplicate rows of a file joined"] == 1
    assert annotations.counts["duplicate rows with another label, the first kept"] == 0
    for video, frames in videos.items():
        assert annotations.videos[video].frames.tolist() == sorted(frames)
        assert_rows(annotations.videos[video].labels, as_labels([frames[k] for k in sorted(frames)]))


@settings(deadline=None, max_examples=40)
@given(st.lists(label_rows, min_size=1, max_size=12))
def test_per_task_annotations_survive_write_and_read(rows):
    labels = as_labels(rows)
    with tempfile.TemporaryDirectory() as folder:
        for task, header in (("VA", VA), ("EXPR", EXPR), ("AU", AU)):
            write_task_annotations(Path(folder) / task / "Train_Set" / "v.txt", header.strip(), labels)
        video = read_annotations(folder).videos["v"]
    assert video.split == "train" and video.frames.tolist() == list(range(1, len(rows) + 1))
    assert_rows(video.labels, labels)


def test_a_class_that_an_edition_does_not_know_is_not_written(tmp_path):
    labels = np.full((2, 15), NAN, np.float32)
    labels[1, 2] = 7
    with pytest.raises(ValueError, match="a class that"):
        write_task_annotations(tmp_path / "v.txt", EXPR_7.strip(), labels)
    assert not list(tmp_path.iterdir())
    labels[1, 2] = 6
    write_task_annotations(tmp_path / "v.txt", EXPR_7.strip(), labels)
    assert (tmp_path / "v.txt").read_text() == EXPR_7 + "-1\n6\n"


def test_the_official_form_is_written(tmp_path):
    labels = np.array([[0, 0.05, 0] + [0] * 5 + [1] + [0] * 6, [NAN, NAN, 4] + [NAN] * 12], np.float32)
    write_mtl_annotations(tmp_path / "x.txt", [("426/00001.jpg", labels[0]), ("video48/02518.jpg", labels[1])])
    assert (tmp_path / "x.txt").read_text() == (
        "image,valence,arousal,expression,aus\n"
        "426/00001.jpg,0.0,0.05,0,0,0,0,0,0,1,0,0,0,0,0,0\n"
        "video48/02518.jpg,-5.0,-5.0,4,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1,-1\n"
    )


@settings(deadline=None)
@given(
    st.lists(st.floats(-1, 1), min_size=1, max_size=30),
    st.sampled_from(["{!r}", "{:.3f}", "{:.16f}", "{:e}"]),
)
def test_numbers_are_read_as_python_reads_them(values, form):
    texts = [form.format(value) for value in values]
    with tempfile.TemporaryDirectory() as folder:
        path = put(Path(folder) / "v.txt", VA + "".join(f"{text},0\n" for text in texts))
        labels = read_annotations(path).videos["v"].labels
    np.testing.assert_array_equal(labels[:, 0], np.array([float(text) for text in texts]).astype(np.float32))


USUAL = ["0", "-1", "0.274", "-0.511", "-5.0"]
UNUSUAL = [".5", "3.", "1e-3", "+.5", " 0.25 ", "0.1234567890123456789", "9007199254740993.5"]
FAULTY = ["-", ".", "", "nan", "inf", "1_0", "--1", "1.2.3", "x", "1/2"]
PATHS = ["426/00001.jpg", "video_left/7.jpg", "crops/426/00002.jpg", "a/1.png", " a/2.jpg", "a/3", "\u00e4/1.jpg"]
FAULTY_PATHS = ["1.jpg", "a/one.jpg", "../1.jpg", "a/.jpg", "a/-1.jpg", "a/1.5.jpg", "a/1.2.3", "/1.jpg", "a\\b/1.jpg"]


@settings(deadline=None, max_examples=300)
@given(st.booleans(), st.integers(1, 3), st.data())
def test_lines_parsed_at_once_are_those_parsed_one_by_one(image, count, data):
    path = st.sampled_from(PATHS * 5 + FAULTY_PATHS)
    rows = data.draw(st.lists(st.tuples(path, *[st.sampled_from(USUAL * 9 + UNUSUAL + FAULTY)] * count), max_size=6))
    ends = st.sampled_from([""] * 9 + [",", "\r", " ", ",0"])
    text = "\n".join(",".join(row if image else row[1:]) + data.draw(ends) for row in rows).encode()
    parsers = [label_text._Parser(count, {} if image else None) for _ in range(2)]
    block, (expected, fault) = parsers[0].at_once(text, 1), parsers[1].line_by_line(text, 1)
    if fault or expected.blank_lines or expected.trailing_commas:
        assert block is None
    elif block is not None:
        for part, values in vars(expected).items():
            np.testing.assert_array_equal(getattr(block, part), values)


@pytest.mark.parametrize("stale", [".ipynb_checkpoints/train-checkpoint.txt", "@eaDir/train.txt", "._train.txt"])
def test_copies_that_systems_and_editors_leave_are_not_read(tmp_path, stale):
    put(tmp_path / "train.txt", MTL + "v/00001.jpg,0.5,0.5,3" + NO_UNITS + "\n")
    put(tmp_path / stale, MTL + "v/00001.jpg,-0.9,-0.9,1" + NO_UNITS + "\n")
    annotations = read_annotations(tmp_path)
    assert annotations.videos["v"].labels[0, :3].tolist() == [0.5, 0.5, 3]
    assert annotations.counts["label files read"] == 1


def test_what_a_folder_of_annotations_holds_beside_them_is_said_once(tmp_path, caplog):
    put(tmp_path / "Train_Set" / "v.TXT", VA + "0.5,0.5\n")
    put(tmp_path / "video.txt" / "Val_Set" / "w.txt", VA + "0.1,0.1\n")
    put(tmp_path / "labels.xlsx", "")
    put(tmp_path / "Thumbs.db", "")
    (tmp_path / "x.txt").symlink_to("nowhere.txt")
    assert list(read_annotations(tmp_path).videos) == ["v", "w"]
    (said,) = caplog.messages
    assert "2 entries passed over, not annotations: " in said and "labels.xlsx" in said and "x.txt" in said


CONFLICTS = {
    "two multi-task files": {
        "a_train.txt": MTL + "v/00001.jpg,0.1,0.1,1" + NO_UNITS + "\nv/00002.jpg,0.5,0.5,3" + NO_UNITS + "\n",
        "b_train.txt": MTL + "v/00002.jpg,0.6,0.5,3" + NO_UNITS + "\n",
    },
    "a multi-task file and one per video": {
        "a_train.txt": MTL + "v/00002.jpg,0.5,0.5,3" + NO_UNITS + "\n",
        "b/EXPR_Set/Train_Set/v.txt": EXPR + "1\n2\n",
    },
    "two files per video": {
        "a/AU_Set/Train_Set/v.txt": AU + "0,0,0,0,0,0,0,0,0,0,0,0\n" * 2,
        "b/AU_Set/Train_Set/v.txt": AU + "0,0,0,0,0,0,0,0,0,0,0,0\n0,0,0,0,0,0,0,0,0,1,0,0\n",
    },
}


@pytest.mark.parametrize("kind", CONFLICTS)
def test_files_of_one_folder_that_disagree_are_refused_and_the_one_named_first_wins(tmp_path, kind, caplog):
    first, second = (put(tmp_path / name, text) for name, text in CONFLICTS[kind].items())
    with pytest.raises(UserError, match="disagree about video v, frame 2; remove one") as refused:
        read_annotations(tmp_path)
    assert str(first) in str(refused.value) and str(second) in str(refused.value)
    assert not caplog.messages
    one, other = (read_annotations(path, tmp_path).videos["v"].labels[-1] for path in (first, second))
    (alone,) = read_annotations(second).videos["v"].labels[-1:]
    known = ~np.isnan(alone)
    assert_rows([other[known]], [alone[known]])
    assert (one[known] != other[known]).any()
    assert "disagree about video v, frame 2: the first file's labels are kept (1 such videos)" in caplog.text


def test_files_that_agree_or_do_not_meet_are_joined(tmp_path):
    put(tmp_path / "a_train.txt", MTL + "v/00001.jpg,0.5,0.5,3" + NO_UNITS + "\n")
    put(tmp_path / "b_train.txt", MTL + "v/00001.jpg,0.5,0.5,3" + ",1" * 12 + "\nv/00002.jpg,0,0,1" + NO_UNITS)
    assert_rows(read_annotations(tmp_path).videos["v"].labels[:1], [[0.5, 0.5, 3] + [1] * 12])
    put(tmp_path / "c_val.txt", MTL + "v/00001.jpg,-0.5,-0.5,4" + NO_UNITS + "\n")  # the others are left out
    annotations = read_annotations(tmp_path)
    assert annotations.videos["v"].split == "val" and annotations.videos["v"].labels[0, 2] == 4


def test_a_test_list_in_another_unicode_form_is_one(tmp_path):
    listed = put(tmp_path / "test_videos.txt", unicodedata.normalize("NFD", "vidéo1\nZoë_left\n"))
    assert list(read_annotations(listed).videos) == ["Zoë_left", "vidéo1"]
