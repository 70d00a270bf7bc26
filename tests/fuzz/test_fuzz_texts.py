"""Damaged tables of predictions, submissions, test lists, templates and lengths, in several encodings."""

from __future__ import annotations

import numpy as np
import pytest

from abaw_seq.data.annotations import read_annotations
from abaw_seq.data.prediction_file import VideoPredictions, read_predictions, write_groups
from abaw_seq.results.reading import read_scorable
from abaw_seq.results.submission.checking import check_submission, read_submission
from abaw_seq.results.submission.wanted import read_lengths, wanted_rows
from abaw_seq.results.submission.writing import write_submission
from tests.fuzz.changes import changed_bytes, read_or_refused

MTL = "image,valence,arousal,expression,aus\n"
ROWS = [f"vidéo{k % 3}/{k:05d}.jpg" for k in range(40)]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252")


def damaged(text: str, rng: np.random.Generator) -> bytes:
    """The text in one of several forms, then damaged."""
    text = text.replace(",", rng.choice([",", ",", ",", "\t", ";"])).replace("\n", rng.choice(["\n", "\r\n", "\r"]))
    return changed_bytes(text.encode(rng.choice(ENCODINGS)), rng)


def predictions(rng: np.random.Generator, rows: int) -> VideoPredictions:
    outputs = {"valence": rng.uniform(-1, 1, rows), "arousal": rng.uniform(-1, 1, rows)}
    outputs |= {"expression": rng.dirichlet(np.ones(8), rows), "au": rng.random((rows, 12))}
    return VideoPredictions(np.arange(rows, dtype=np.int32), outputs)


def test_damaged_tables_of_predictions_are_read_or_refused(tmp_path, cases):
    rng = np.random.default_rng(0)
    write_groups(tmp_path / "p", [{f"vidéo{k}": predictions(rng, 15) for k in range(3)}])
    text = (tmp_path / "p.csv").read_text(encoding="utf-8")
    for name, rng in cases:
        (tmp_path / "p.csv").write_bytes(damaged(text, rng))
        for read in (read_predictions, read_scorable):
            with read_or_refused(f"{name}, {read.__name__}"):
                read(tmp_path / "p.csv")


@pytest.mark.parametrize("header", [MTL, "image_location,valence,arousal\n", ""])
def test_damaged_lists_templates_and_submissions_are_read_or_refused(tmp_path, cases, header):
    fields = 2 if "location" in header else 15
    path = tmp_path / "test_set.txt"
    rng = np.random.default_rng(0)
    known = {f"vidéo{k}": predictions(rng, 15) for k in range(3)}
    for name, rng in cases:
        numbers = ",0" * (fields if rng.integers(2) else 0)
        path.write_bytes(damaged(header + "".join(f"{row}{numbers}\n" for row in ROWS), rng))
        with read_or_refused(f"{name}, annotations"):
            read_annotations(path)
        with read_or_refused(f"{name}, submission"):
            read_submission(path)
        with read_or_refused(f"{name}, list"):
            wanted = wanted_rows(path, None, rng.choice([None, "va", "au"]))
            write_submission(tmp_path / "out.txt", wanted, known, missing_videos="neutral")
        with read_or_refused(f"{name}, check"):
            check_submission(path, wanted_rows(path, None, None))


def test_damaged_lengths_and_lists_of_videos_are_read_or_refused(tmp_path, cases):
    lengths, names = tmp_path / "lengths.txt", tmp_path / "names.txt"
    for name, rng in cases:
        lengths.write_bytes(damaged("video,frames\n" + "".join(f"vidéo{k},{k + 1}\n" for k in range(30)), rng))
        names.write_bytes(damaged("".join(f"vidéo{k}\n" for k in range(30)), rng))
        with read_or_refused(f"{name}, lengths"):
            read_lengths(lengths)
        with read_or_refused(f"{name}, names"):
            wanted_rows(names, None, "va")
