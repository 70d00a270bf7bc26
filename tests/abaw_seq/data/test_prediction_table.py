"""The table that `predict` writes, read as its HDF5 file is."""

import numpy as np
import pytest

from abaw_seq.data.prediction_file import VideoPredictions, read_predictions, write_groups
from abaw_seq.errors import UserError
from abaw_seq.results.reading import read_scorable
from abaw_seq.tasks import TASKS


def predictions(frames, seed=0):
    rng = np.random.default_rng(seed)
    n = len(frames)
    outputs = {
        "valence": rng.uniform(-1, 1, n),
        "arousal": rng.uniform(-1, 1, n),
        "expression": rng.dirichlet(np.ones(8), n),
        "au": rng.random((n, 12)),
    }
    return VideoPredictions(np.array(frames, np.int32), {t: v.astype(np.float32) for t, v in outputs.items()})


VIDEOS = {"v": predictions([1, 2, 9]), 'a, "b"': predictions([0, 7], 1), "vidéo": predictions([3], 2)}


def with_row_numbers(text: str) -> bytes:
    header, *rows = text.splitlines()
    return "\r\n".join([f",{header}", *(f"{k},{row}" for k, row in enumerate(rows))]).encode()


CHANGES = [
    str.encode,
    lambda text: text.encode("utf-16"),
    lambda text: ("\n\n" + text + "\n,,,\n").encode("utf-8-sig"),
    with_row_numbers,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_table_holds_what_its_file_holds_up_to_its_digits(tmp_path, change):
    write_groups(tmp_path / "p", [VIDEOS])
    table = tmp_path / "p.csv"
    table.write_bytes(change(table.read_text(encoding="utf-8")))
    stored = read_predictions(tmp_path / "p.h5")
    for read in (read_predictions(table), read_scorable(table)):
        assert read.keys() == stored.keys() == VIDEOS.keys()
        for name, video in stored.items():
            assert read[name].frames.tolist() == video.frames.tolist() and read[name].labels is None
            for task in TASKS:
                np.testing.assert_allclose(read[name].outputs[task], video.outputs[task], atol=0.5001e-4)
            np.testing.assert_array_equal(
                read[name].outputs["expression"].argmax(1), video.outputs["expression"].argmax(1)
            )


def test_the_class_decides_between_probabilities_that_are_rounded_alike(tmp_path):
    video = predictions([1])
    video.outputs["expression"] = np.array([[0.30001, 0.30002, *[0.4 / 6] * 6]], np.float32)
    write_groups(tmp_path / "p", [{"v": video}])
    assert read_predictions(tmp_path / "p.csv")["v"].outputs["expression"].argmax() == 1


def test_a_table_of_some_tasks_holds_these(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("video;frame;arousal;valence\nv;2;-0,5;0,25\nw;1;0;1\nv;1;0;0\n")
    read = read_predictions(path)
    assert read["v"].frames.tolist() == [2, 1] and read["v"].outputs["valence"].tolist() == [0.25, 0]
    assert list(read["w"].outputs) == ["valence", "arousal"]


REFUSED = {
    "line 1: column p_Anger is missing": "video,frame,expression,p_Neutral\nv,1,0,1\n",
    "line 1: holds no predictions of valence": "video,frame,confidence\nv,1,0\n",
    "line 3: 3 fields expected, not 2": "video,frame,valence\nv,1,0\nv,2\n",
    "line 2: does not start with a video and the number of a frame": "video,frame,valence\nv,1.5,0\n",
    "line 4: does not start with a video": "video,frame,valence\nv,1,0\n\n,1,0\n",
    "line 2: holds a field that is not a number": "video,frame,valence\nv,1,high\n",
    "line 2: holds NaN, infinity": "video,frame,valence\nv,1,nan\n",
    "holds no predictions below its header": "video,frame,valence\n\n",
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_faulty_table_is_refused_with_its_line(tmp_path, reason):
    path = tmp_path / "p.csv"
    path.write_text(REFUSED[reason])
    with pytest.raises(UserError, match=reason):
        read_predictions(path)
