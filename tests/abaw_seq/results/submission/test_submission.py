from __future__ import annotations

import tempfile
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from abaw_seq.data.annotations import read_annotations
from abaw_seq.data.prediction_file import VideoPredictions, read_predictions, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.metrics import score
from abaw_seq.results.postprocess import Postprocess
from abaw_seq.results.submission.checking import check_submission, read_submission
from abaw_seq.results.submission.wanted import VIDEO_HEADERS, files_per_video, read_image_list, wanted_rows
from abaw_seq.results.submission.writing import write_submission
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

MTL = "image,valence,arousal,expression,aus\n"
VA = "image_location,valence,arousal\n"
EXPR = f"image_location,{','.join(EXPRESSIONS)}\n"
AU = f"image_location,{','.join(ACTION_UNITS)}\n"
HEADERS = {"mtl": MTL, "va": VA, "expr": EXPR, "au": AU}


def put(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def predictions(frames: list[int], seed: int = 0) -> VideoPredictions:
    rng = np.random.default_rng(seed)
    n = len(frames)
    return VideoPredictions(
        np.array(frames, np.int32),
        {
            "valence": rng.uniform(-1, 1, n).astype(np.float32),
            "arousal": rng.uniform(-1, 1, n).astype(np.float32),
            "expression": rng.dirichlet(np.ones(8), n).astype(np.float32),
            "au": rng.random((n, 12)).astype(np.float32),
        },
    )


def simple(frames: list[int], expression: int = 0) -> VideoPredictions:
    """Valence is a tenth of the frame number, arousal its negative, the expression and AU2 constant."""
    n = len(frames)
    valence = np.array(frames, np.float32) / 10
    units = np.zeros((n, 12), np.float32)
    units[:, 1] = 0.5
    outputs = {
        "valence": valence,
        "arousal": -valence,
        "expression": np.eye(8)[[expression] * n],
        "au": units,
    }
    return VideoPredictions(np.array(frames, np.int32), outputs)


def test_the_multi_task_file_follows_the_list_with_its_duplicates_and_trailing_commas(tmp_path):
    listed = put(tmp_path / "MTL.txt", MTL + "b/00001.jpg,\na/00002.jpg,\na/00003.jpg,\nb/00001.jpg,\n")
    out = tmp_path / "out" / "predictions.txt"
    assert write_submission(out, read_image_list(listed), {"a": simple([1, 2], 7), "b": simple([1])}) == 1
    assert out.read_text() == MTL + (
        "b/00001.jpg,0.100000,-0.100000,0,0,1,0,0,0,0,0,0,0,0,0,0\n"
        "a/00002.jpg,0.200000,-0.200000,7,0,1,0,0,0,0,0,0,0,0,0,0\n"
        "a/00003.jpg,0.200000,-0.200000,7,0,1,0,0,0,0,0,0,0,0,0,0\n"
        "b/00001.jpg,0.100000,-0.100000,0,0,1,0,0,0,0,0,0,0,0,0,0\n"
    )
    assert check_submission(out, read_image_list(listed)) == 4


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("va", ["0.500000,-0.500000", "0.200000,-0.200000", "0.200000,-0.200000"]),
        ("expr", ["3", "3", "3"]),
        ("au", ["0,1,0,0,0,0,0,0,0,0,0,0"] * 3),
    ],
)
def test_a_task_file_follows_its_template_whose_dummy_values_do_not_matter(tmp_path, kind, rows):
    images = ["v/00005.jpg", "v/00001.jpg", "v/00003.png"]
    dummy = ["", ",", ",0,junk"]
    template = put(tmp_path / "t.txt", HEADERS[kind] + "".join(f"{i}{d}\n" for i, d in zip(images, dummy, strict=True)))
    out = tmp_path / "out.txt"
    assert write_submission(out, read_image_list(template), {"v": simple([2, 5], 3)}) == 2
    expected = [f"{image},{row}" for image, row in zip(images, rows, strict=True)]
    assert out.read_text() == HEADERS[kind] + "\n".join(expected) + "\n"
    assert check_submission(out, read_image_list(template)) == 3


def test_valence_and_arousal_are_interpolated_on_request_and_the_rest_is_from_the_nearest_frame(tmp_path):
    frames = [f"v/{k:05d}.jpg" for k in range(1, 10)]
    template = read_image_list(put(tmp_path / "t.txt", MTL + "\n".join(frames)))
    video = VideoPredictions(
        np.array([7, 3]),
        {
            "valence": np.array([0.6, 0.2]),
            "arousal": np.array([-1.5, 0.5]),
            "expression": np.eye(8)[[6, 1]],
            "au": np.ones((2, 12)) * [[1], [0]],
        },
    )
    write_submission(tmp_path / "o.txt", template, {"v": video}, fill="interpolate")
    rows = [line.split(",") for line in (tmp_path / "o.txt").read_text().split("\n")[1:-1]]
    assert [float(row[1]) for row in rows] == pytest.approx([0.2, 0.2, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6])
    assert [float(row[2]) for row in rows] == pytest.approx([0.5, 0.5, 0.5, 0, -0.5, -1, -1, -1, -1])
    assert [row[3] for row in rows] == ["1"] * 5 + ["6"] * 4
    assert [row[4] for row in rows] == ["0"] * 5 + ["1"] * 4


def test_units_are_active_from_their_own_threshold_on(tmp_path):
    template = read_image_list(put(tmp_path / "t.txt", AU + "v/1.jpg\n"))
    video = VideoPredictions(np.array([1]), {"au": np.full((1, 12), 0.5)})
    stored = Postprocess(au_thresholds=(0.4, 0.5, 0.6) * 4)
    write_submission(tmp_path / "o.txt", template, stored.apply({"v": video}))
    assert (tmp_path / "o.txt").read_text() == AU + "v/1.jpg" + ",1,1,0" * 4 + "\n"


def test_early_editions_have_a_file_per_video_with_a_row_for_each_frame(tmp_path):
    probabilities = np.zeros((2, 8))
    probabilities[:, 7], probabilities[0, 2], probabilities[1, 4] = 0.6, 0.4, 0.4
    units = np.tile(np.arange(12) % 2, (2, 1))
    video = VideoPredictions(
        np.array([2, 4]),
        {"valence": np.array([0.1, 0.3]), "arousal": np.zeros(2), "expression": probabilities, "au": units},
    )
    expected = {
        "va": (["valence,arousal", "0.100000,0.000000"], ["0.300000,0.000000"]),
        "expr": ([",".join(EXPRESSIONS), "7"], ["7"]),
        "expr2020": ([",".join(EXPRESSIONS[:7]), "2"], ["4"]),
        "au": ([",".join(ACTION_UNITS), "0,1,0,1,0,1,0,1,0,1,0,1"], ["0,1,0,1,0,1,0,1,0,1,0,1"]),
        "au2020": (["AU1,AU2,AU4,AU6,AU12,AU15,AU20,AU25", "0,1,0,1,0,1,0,0"], ["0,1,0,1,0,1,0,0"]),
    }
    assert set(expected) == set(VIDEO_HEADERS)
    for kind, ((header, early), late) in expected.items():
        folder = tmp_path / kind
        wanted = files_per_video(kind, {"v": 5})
        assert write_submission(folder, wanted, {"v": video}) == 3
        assert (folder / "v.txt").read_text() == "\n".join([header, early, early, early, *late * 2, ""])
        assert check_submission(folder, wanted) == 5
    both = read_submission(tmp_path / "expr2020")["v"].outputs["expression"]
    assert both.shape == (5, 8) and both.argmax(1).tolist() == [2, 2, 2, 4, 4]
    seven = read_submission(tmp_path / "au2020")["v"].outputs["au"]
    listed = [unit in VIDEO_HEADERS["au2020"] for unit in ACTION_UNITS]
    assert (~np.isnan(seven[0])).tolist() == listed and seven[0, listed].tolist() == [0, 1, 0, 1, 0, 1, 0]


def test_what_cannot_be_written_is_refused_and_leaves_no_file(tmp_path):
    template = read_image_list(put(tmp_path / "t.txt", MTL + "a/1.jpg\nb/1.jpg\n"))
    out = tmp_path / "out" / "o.txt"
    with pytest.raises(UserError, match=r"no predictions of video b, which .*t.txt asks for"):
        write_submission(out, template, {"a": simple([1])})
    without = simple([1])
    del without.outputs["au"]
    with pytest.raises(UserError, match="video b hold no au"):
        write_submission(out, template, {"a": simple([1]), "b": without})
    with pytest.raises(UserError, match="unknown fill 'previous'"):
        write_submission(out, template, {"a": simple([1]), "b": simple([1])}, fill="previous")
    with pytest.raises(UserError, match="'../b' cannot be a file name"):
        files_per_video("va", {"../b": 1})
    with pytest.raises(UserError, match="no files per video of 'mtl'"):
        files_per_video("mtl", {"a": 1})
    with pytest.raises(UserError, match="not a test list or template"):
        read_image_list(put(tmp_path / "stems.txt", "a\nb\n"))
    with pytest.raises(UserError, match=r"line 3: no image path"):
        read_image_list(put(tmp_path / "bad.txt", MTL + "a/1.jpg\nb\n"))
    assert not (tmp_path / "out").exists()


def test_a_submission_is_read_back_as_predictions_and_scored(tmp_path):
    labels = put(
        tmp_path / "validation_set.txt",
        MTL + "".join(f"v/{k:05d}.jpg,0.{k},-0.{k},{k}{',0,1' * 6}\n" for k in range(1, 8)),
    )
    annotations = read_annotations(labels)
    read = read_submission(labels)
    assert read["v"].frames.tolist() == list(range(1, 8))
    assert read["v"].outputs["expression"].argmax(1).tolist() == list(range(1, 8))
    scores = score(read["v"].outputs, annotations.for_frames("v", read["v"].frames))
    assert scores["valence"] == pytest.approx(1) and scores["expression"] == pytest.approx(7 / 8)
    assert scores["au"] == pytest.approx(0.5)
    repeated = put(tmp_path / "twice.txt", VA + "v/2.jpg,0.5,0\nv/1.jpg,0,0\nv/2.jpg,0.25,0\n")
    assert read_submission(repeated)["v"].frames.tolist() == [1, 2]
    assert read_submission(repeated)["v"].outputs["valence"].tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (VA + "v/1.jpg,0.5,0\nv/2.jpg,-5,-5\n", "line 3: -5 is not a prediction of this kind"),
        (EXPR + "v/1.jpg,-1\n", "line 2: -1 is not a prediction"),
        (EXPR + "v/1.jpg,1.5\n", "line 2: 1.5 is not a prediction"),
        (AU + "v/1.jpg" + ",0.4" * 12, "line 2: 0.4 is not a prediction"),
        (AU + "v/1.jpg,0\n", "line 2: 13 fields expected, not 2"),
        ("valence,arousal\n", "holds no predictions"),
        ("something else\n", "not a submission: its first line 'something else'"),
    ],
)
def test_what_is_not_a_submission_is_not_read(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_submission(put(tmp_path / "v.txt", text))


def test_an_empty_folder_is_not_a_submission(tmp_path):
    with pytest.raises(UserError, match="holds no submission files"):
        read_submission(tmp_path)


GOOD = [
    "a/00001.jpg,0.5,0.5,0" + ",0" * 12,
    "a/00002.jpg,-1,1.0,7" + ",1" * 12,
    "b/00001.jpg,0,0,3" + ",0" * 12,
]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "line 1: header 'image,valence,"),
        (lambda rows: [rows[0].replace("image", "image_location"), *rows[1:]], "line 1: header"),
        (lambda rows: rows[:-1], "line 4: 1 rows missing, 3 are expected"),
        (lambda rows: rows + rows[-1:], "line 5: 1 rows too many"),
        (lambda rows: rows + [""], "line 5: 1 rows too many"),
        (
            lambda rows: [rows[0], rows[2], rows[1], rows[3]],
            "line 2: image a/00001.jpg expected, not 'a/00002.jpg'",
        ),
        (lambda rows: [*rows[:2], rows[2] + ",0", rows[3]], "line 3: 15 values expected, not 16"),
        (
            lambda rows: [*rows[:2], rows[2].replace("1.0", "1.01"), rows[3]],
            "line 3: '1.01' is not a number from -1 to 1",
        ),
        (lambda rows: [*rows[:2], rows[2].replace("1.0", "nan"), rows[3]], "line 3: 'nan' is not a number"),
        (lambda rows: [*rows[:2], rows[2].replace("1.0", "x"), rows[3]], "line 3: 'x' is not a number"),
        (
            lambda rows: [*rows[:2], rows[2].replace(",7,", ",8,"), rows[3]],
            "'8' is not a whole number from 0 to 7",
        ),
        (
            lambda rows: [*rows[:2], rows[2].replace(",7,", ",7.0,"), rows[3]],
            "'7.0' is not a whole number from 0 to 7",
        ),
        (lambda rows: [*rows[:3], rows[3][:-1] + "2"], "line 4: '2' is not a whole number from 0 to 1"),
        (lambda rows: [*rows[:3], rows[3][:-1] + "-1"], "line 4: '-1' is not a whole number from 0 to 1"),
    ],
)
def test_the_first_fault_of_a_submission_is_named(tmp_path, change, message):
    template = read_image_list(put(tmp_path / "list.txt", MTL + "".join(f"{row.split(',')[0]}\n" for row in GOOD)))
    rows = [MTL.strip(), *GOOD]
    path = tmp_path / "submission.txt"
    for end in ("\n", "\r\n", ""):
        put(path, ("\n" if not end else end).join(rows) + end)
        assert check_submission(path, template) == 3
    put(path, "\n".join(change(rows)) + "\n")
    with pytest.raises(UserError, match=message) as error:
        check_submission(path, template)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_the_first_fault_of_a_folder_of_files_is_named(tmp_path):
    listed = {"a": None, "b": None}
    folder = tmp_path / "files"
    header = "valence,arousal\n"
    put(folder / "a.txt", header + "0.1,0.2\n0.1,0.2\n")
    with pytest.raises(UserError, match=r"b.txt: no such submission file, and the test set asks for it"):
        check_submission(folder, files_per_video("va", listed))
    put(folder / "b.txt", header + "0.1,0.2\n0.1,5\n")
    with pytest.raises(UserError, match=r"b.txt, line 3: '5' is not a number from -1 to 1"):
        check_submission(folder, files_per_video("va", listed))
    put(folder / "b.txt", header + "0.1,0.2\n")
    assert check_submission(folder, files_per_video("va", listed)) == 3
    assert check_submission(folder, files_per_video("va", {"a": 2, "b": 1})) == 3
    with pytest.raises(UserError, match=r"a.txt, line 4: 1 rows missing, 3 are expected"):
        check_submission(folder, files_per_video("va", {"a": 3, "b": 1}))
    with pytest.raises(UserError, match=r"a.txt, line 1: header 'Neutral,"):
        check_submission(folder, files_per_video("expr", listed))
    put(folder / "c.txt", header)
    with pytest.raises(UserError, match=r"c.txt: its video is not in the test set"):
        check_submission(folder, files_per_video("va", listed))


frame_lists = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(HEADERS)),
    st.dictionaries(st.sampled_from(["426", "video48_left", "2-30-640x360"]), frame_lists, min_size=1),
    st.data(),
)
def test_whatever_is_written_validates_and_reads_back(kind, wanted, data):
    images = [f"{video}/{frame:05d}.jpg" for video, frames in wanted.items() for frame in frames]
    images = data.draw(st.permutations(images))
    predicted = {
        video: predictions(data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=9, unique=True)), k)
        for k, video in enumerate(wanted)
    }
    with tempfile.TemporaryDirectory() as folder:
        template = put(Path(folder) / "template.txt", HEADERS[kind] + "".join(f"{image},\n" for image in images))
        out = Path(folder) / "out.txt"
        write_submission(
            out,
            read_image_list(template),
            predicted,
            fill=data.draw(st.sampled_from(["nearest", "interpolate"])),
        )
        assert check_submission(out, read_image_list(template)) == len(images)
        read = read_submission(out)
    assert set(read) == set(wanted)
    for video, frames in wanted.items():
        assert read[video].frames.tolist() == sorted(set(frames))
        for row, frame in enumerate(read[video].frames):
            if frame not in predicted[video].frames:
                continue
            source = predicted[video].frames.tolist().index(frame)
            for task, values in read[video].outputs.items():
                original = predicted[video].outputs[task][source]
                if task == "expression":
                    assert values[row].argmax() == original.argmax() and values[row].sum() == 1
                elif task == "au":
                    np.testing.assert_array_equal(values[row], original >= 0.5)
                else:
                    assert values[row] == pytest.approx(original, abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from(sorted(VIDEO_HEADERS)),
    st.dictionaries(st.sampled_from(["a", "b_left", "1-2-3x4"]), st.integers(1, 30), min_size=1),
    st.data(),
)
def test_files_per_video_validate_and_read_back(kind, lengths, data):
    predicted = {
        video: predictions(data.draw(st.lists(st.integers(1, 30), min_size=1, max_size=9, unique=True)), k)
        for k, video in enumerate(lengths)
    }
    with tempfile.TemporaryDirectory() as folder:
        wanted = files_per_video(kind, lengths)
        write_submission(folder, wanted, predicted)
        assert check_submission(folder, wanted) == sum(lengths.values())
        read = read_submission(folder)
    assert {video: len(values.frames) for video, values in read.items()} == lengths


@pytest.mark.parametrize("frames", [[0, 1, 2, 3], [0, 2, 3]])
def test_predictions_of_frames_counted_from_0_are_written_to_the_lines_of_these_frames(tmp_path, frames):
    write_submission(tmp_path, files_per_video("va", {"v": 4}), {"v": simple(frames)})
    lines = (tmp_path / "v.txt").read_text().splitlines()[1:]
    assert len(lines) == 4
    assert [lines[k].split(",")[0] for k in frames] == [f"{k / 10:.6f}" for k in frames]


@pytest.mark.parametrize("frames", [[0, 1, 2, 3, 4], [0, 9]])
def test_a_frame_0_and_more_frames_than_the_video_has_are_refused(tmp_path, frames):
    with pytest.raises(UserError, match=f"video v are of frames 0 to {frames[-1]}, and it has 4 frames"):
        write_submission(tmp_path, files_per_video("va", {"v": 4}), {"v": simple(frames)})


@pytest.mark.parametrize("name", ["._v.txt", ".ipynb_checkpoints/v.txt", "@eaDir/v.txt"])
def test_what_systems_leave_is_no_submission_file(tmp_path, name):
    wanted = files_per_video("va", {"v": 2})
    write_submission(tmp_path, wanted, {"v": simple([1, 2])})
    put(tmp_path / name, "\0\5")
    assert check_submission(tmp_path, wanted) == 2 and list(read_submission(tmp_path)) == ["v"]


def test_lists_lengths_and_predictions_meet_in_every_unicode_form(tmp_path):
    composed, apart = (unicodedata.normalize(form, "vidéo1") for form in ("NFC", "NFD"))
    write_predictions(tmp_path / "p.h5", {apart: simple([1, 2])})
    videos = read_predictions(tmp_path / "p.h5")
    lengths = put(tmp_path / "lengths.txt", f"{apart},2\n")
    listed = put(tmp_path / "list.txt", f"{apart}\n")
    for wanted in (wanted_rows(None, lengths, "va"), wanted_rows(listed, lengths, "va")):
        write_submission(tmp_path / "out", wanted, videos)
        assert list(read_submission(tmp_path / "out")) == [composed]
