"""What a test set asks for, from its lists."""

import numpy as np
import pytest

from abaw_seq.data.feature_file import VideoFeatures, atomic_feature_file
from abaw_seq.data.prediction_file import VideoPredictions, write_predictions
from abaw_seq.errors import UserError
from abaw_seq.results.postprocess import Postprocess, read_postprocessed, save_postprocess
from abaw_seq.results.submission.checking import check_submission
from abaw_seq.results.submission.wanted import read_lengths, wanted_rows
from abaw_seq.results.submission.writing import write_checked

MTL = "image,valence,arousal,expression,aus\n"
VA = "image_location,valence,arousal\n"
AU = "image_location,AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26\n"


def put(path, text):
    path.write_text(text)
    return path


def ramp(frames):
    """Valence is a tenth of the frame number."""
    n = len(frames)
    frames = np.array(frames, np.int32)
    outputs = {
        "valence": frames / 10,
        "arousal": -frames / 10,
        "expression": np.eye(8)[[3] * n],
        "au": np.ones((n, 12)),
    }
    return VideoPredictions(frames, outputs)


def lengths_of(wanted):
    return {name: len(rows.frames) for name, rows in wanted.files.items()}


def test_the_header_of_a_template_is_its_edition_and_every_line_is_written_and_checked(tmp_path):
    listed = put(tmp_path / "va.txt", VA + "v/00001.jpg\nv/00004.jpg\nv/00001.jpg\n")
    wanted = wanted_rows(listed, None, None)
    assert wanted.kind == "va"
    line = write_checked(tmp_path / "out.txt", wanted, {"v": ramp([1, 3])})
    assert line.startswith(f"{tmp_path / 'out.txt'}: 3 rows, checked against {listed}; 1 filled from the nearest")
    assert (tmp_path / "out.txt").read_text().splitlines()[1:] == [
        "v/00001.jpg,0.100000,-0.100000", "v/00004.jpg,0.300000,-0.300000", "v/00001.jpg,0.100000,-0.100000"
    ]  # fmt: skip
    assert check_submission(tmp_path / "out.txt", wanted) == 3
    put(tmp_path / "out.txt", VA + "v/00001.jpg,0.1,2\n")
    with pytest.raises(UserError, match="line 2: '2' is not a number from -1 to 1"):
        check_submission(tmp_path / "out.txt", wanted)


def test_files_per_video_have_the_length_of_the_video(tmp_path):
    lengths = put(tmp_path / "lengths.csv", "v,5\nw 2\n\nunlisted,9,\n")
    listed = put(tmp_path / "names.txt", "w\nv\n")
    wanted = wanted_rows(listed, lengths, "va")
    assert lengths_of(wanted) == {"w.txt": 2, "v.txt": 5}
    line = write_checked(tmp_path / "out", wanted, {"v": ramp([2, 4]), "w": ramp([1, 2])}, fill="interpolate")
    assert "7 rows" in line and "3 filled" in line and "on the line between" in line
    rows = (tmp_path / "out" / "v.txt").read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["0.200000", "0.200000", "0.300000", "0.400000", "0.400000"]
    assert lengths_of(wanted_rows(None, lengths, "au2020")) == {"v.txt": 5, "w.txt": 2, "unlisted.txt": 9}
    assert (
        check_submission(tmp_path / "out", wanted_rows(listed, None, "va")) == 7
    )  # lengths not known, form is checked


def test_lengths_come_from_a_feature_file_that_knows_them(tmp_path):
    with atomic_feature_file(tmp_path / "f.h5") as writer:
        for name, count in (("v", 50), ("w", None)):
            frames = np.array([1, 7], np.int32)
            writer.add_video(VideoFeatures(name, frames, np.ones(2, bool), frame_count=count))
    assert read_lengths(tmp_path / "f.h5") == {"v": 50, "w": None}
    wanted = wanted_rows(None, tmp_path / "f.h5", "va")
    with pytest.raises(UserError, match="the length of video w is not known"):
        write_checked(tmp_path / "out", wanted, {})


def test_a_runs_stored_thresholds_decide_and_a_file_is_taken_as_it_is(tmp_path, capsys):
    video = ramp([1, 2])
    video.outputs["au"] = np.tile(np.array([[0.6], [0.9]]), 12)
    write_predictions(tmp_path / "predictions.h5", {"v": video})
    wanted = wanted_rows(put(tmp_path / "au.txt", AU + "v/00001.jpg\nv/00002.jpg\n"), None, None)
    units = {}
    for name in ("bare", "stored", "file"):
        source = tmp_path / "predictions.h5" if name == "file" else tmp_path
        write_checked(tmp_path / "out.txt", wanted, read_postprocessed(source))
        units[name] = [row.split(",")[1:3] for row in (tmp_path / "out.txt").read_text().splitlines()[1:]]
        save_postprocess(tmp_path, Postprocess(au_thresholds=(0.7, *[0.5] * 11)))
    assert units["bare"] == units["file"] == [["1", "1"], ["1", "1"]]
    assert units["stored"] == [["0", "1"], ["1", "1"]]
    assert "as stored in the run" in capsys.readouterr().err


REFUSED = {
    "name the test list or template": lambda t: wanted_rows(None, None, "mtl"),
    "no such list": lambda t: wanted_rows(t / "none.txt", None, None),
    "is for va, not for edition mtl": lambda t: wanted_rows(put(t / "l", VA + "v/00001.jpg"), None, "mtl"),
    "one file per video needs an edition, one of va": lambda t: wanted_rows(put(t / "l", "v\nw\n"), None, "mtl"),
    "not a list of videos": lambda t: wanted_rows(put(t / "l", "what is, this?\n"), None, "va"),
    "no such file of video lengths": lambda t: wanted_rows(put(t / "l", "v\n"), t / "none", "va"),
    "line 2: `video,frames` expected, not 'w,many'": lambda t: read_lengths(put(t / "l", "v,1\nw,many\n")),
    "no predictions of video w": lambda t: write_checked(
        t / "o.txt", wanted_rows(put(t / "l", MTL + "w/00001.jpg"), None, None), {"v": ramp([1])}
    ),
    "no such submission file": lambda t: check_submission(
        t / "o.txt", wanted_rows(put(t / "l", MTL + "w/00001.jpg"), None, None)
    ),
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_does_not_fit_is_refused_by_name(words, tmp_path):
    with pytest.raises(UserError, match=words):
        REFUSED[words](tmp_path)
