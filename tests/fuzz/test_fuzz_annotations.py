"""Damaged annotation texts."""

from __future__ import annotations

from abaw_seq.data.annotations import read_annotations
from tests.fuzz.changes import changed_bytes, read_or_refused

HEADER = "valence,arousal\n"


def test_damaged_annotations_are_read_or_refused(tmp_path, cases):
    text = HEADER + "".join(f"{k / 50 - 1:.3f},{1 - k / 50:.4f}\n" for k in range(100))
    path = tmp_path / "VA_Set" / "Train_Set" / "video.txt"
    path.parent.mkdir(parents=True)
    for name, rng in cases:
        path.write_bytes(changed_bytes(text.encode(), rng))
        with read_or_refused(name):
            read_annotations(tmp_path)
