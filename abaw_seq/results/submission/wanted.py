"""What a test set asks for: which official submission files, with which rows.

| kind | file | header |
| --- | --- | --- |
| `mtl` | one file in the order of the test list | `image,valence,arousal,expression,aus` |
| `va`, `expr`, `au` | one file in the order of the template (editions 5 on) | `image_location`, names |
| the same, `expr2020`, `au2020` | one `<video>.txt` per video (editions 1 to 3) | the names |
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from abaw_seq.data.annotation_formats import ACTION_UNITS_2020, MTL_HEADER, is_video_list, recognise_header
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.folder import video_name
from abaw_seq.data.label_text import first_filled_line, read_blocks
from abaw_seq.errors import UserError
from abaw_seq.metrics import CLASSES_2020
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

VIDEO_HEADERS = {
    "va": ("valence", "arousal"),
    "expr": EXPRESSIONS,
    "au": ACTION_UNITS,
    "expr2020": EXPRESSIONS[:CLASSES_2020],
    "au2020": ACTION_UNITS_2020,
}
FILE_HEADERS = {"mtl": MTL_HEADER} | {kind: ("image_location", *VIDEO_HEADERS[kind]) for kind in ("va", "expr", "au")}


@dataclass(frozen=True)
class Rows:
    """The rows of one file."""

    frames: np.ndarray | None
    """The frame number of each row; None where the length of the video is not known."""
    places: Mapping[str, np.ndarray | slice]
    """{video: which rows are its frames}"""
    images: list[str] | None = None
    """The image path that each row starts with; None for rows that start with the first number."""


@dataclass(frozen=True)
class Wanted:
    """What a test set asks for."""

    source: Path | str
    """The list or file of lengths that says so."""
    kind: str
    header: tuple[str, ...]
    files: dict[str, Rows]
    """{file name: its rows}: one file per video in a folder, or a single file, whose name is empty here."""


def wanted_rows(listed: Path | None, lengths: Path | None, edition: str | None) -> Wanted:
    """From a test list or template (one file), or a list of videos and their lengths (one file per video).

    The edition of a list of images is that of its header; one file per video needs `edition`, one of `VIDEO_HEADERS`.
    Raises UserError where the two contradict or something is missing.
    """
    source = listed or lengths
    if source is None:
        raise UserError("what to submit is not known: name the test list or template, or a file of video lengths")
    if not source.is_file():
        raise UserError(f"{source}: no such list")
    if listed is not None and recognise_header(first_filled_line(listed)[1]) is not None:
        images = read_image_list(listed)
        if edition not in (None, images.kind):
            raise UserError(f"{listed}: is for {images.kind}, not for edition {edition}")
        return images
    if edition not in VIDEO_HEADERS:
        raise UserError(f"{source}: one file per video needs an edition, one of {', '.join(VIDEO_HEADERS)}")
    known = read_lengths(lengths) if lengths is not None else {}
    videos = _read_video_list(listed) if listed is not None else list(known)
    return files_per_video(edition, {video: known.get(video) for video in videos}, source)


def read_image_list(path: str | os.PathLike[str]) -> Wanted:
    """Read a test list or template; what follows the image path on a line does not matter."""
    path = Path(path)
    header_line, header = first_filled_line(path)
    layout = recognise_header(header)
    if layout is None or not layout.image:
        raise UserError(f"{path}: not a test list or template: its first line is {header[:80]!r}")
    names: dict[str, int] = {}
    blocks = list(read_blocks(path, first_line=header_line + 1, numbers=0, names=names))
    if not blocks:
        raise UserError(f"{path}: lists no images")
    lines = path.read_bytes().decode("utf-8-sig").split("\n")[header_line:]
    images = [line.split(",")[0].strip() for line in lines if line.strip(" \t\r,")]
    codes, frames = (np.concatenate([getattr(b, part) for b in blocks]) for part in ("codes", "frames"))
    rows = Rows(frames, places_of(names, codes), images)
    return Wanted(path, layout.task, FILE_HEADERS[layout.task], {"": rows})


def places_of(names: Iterable[str], codes: np.ndarray) -> dict[str, np.ndarray]:
    """{name: indices of its rows, rising}, from the rows' codes (N,), which are positions in the names."""
    names = list(names)
    order = np.argsort(codes, kind="stable")
    bounds = np.searchsorted(codes[order], np.arange(1, len(names)))
    return dict(zip(names, np.split(order, bounds), strict=True))


def files_per_video(kind: str, lengths: Mapping[str, int | None], source: Path | str = "the test set") -> Wanted:
    """One `<video>.txt` for each video of `lengths`, with a row for each frame from 1 to its length (None: unknown)."""
    if kind not in VIDEO_HEADERS:
        raise UserError(f"no files per video of {kind!r}: one of {', '.join(VIDEO_HEADERS)}")
    files = {}
    for video, length in lengths.items():
        if Path(video).name != video or video in ("", ".", ".."):
            raise UserError(f"video name {video!r} cannot be a file name")
        frames = None if length is None else np.arange(1, length + 1)
        files[f"{video}.txt"] = Rows(frames, {video: slice(None)})
    return Wanted(source, kind, VIDEO_HEADERS[kind], files)


def _read_video_list(path: Path) -> list[str]:
    """The names of a test set's videos, one per line."""
    text = path.read_text(encoding="utf-8-sig")
    if not is_video_list(text):
        raise UserError(f"{path}: not a list of videos: one name per line is expected")
    return [video_name(name.rstrip(",")) for name in text.split()]


def read_lengths(path: Path) -> dict[str, int | None]:
    """Frames per video, from lines `<video>,<frames>` or a feature file; None where the latter does not say."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of video lengths")
    if h5py.is_hdf5(path):
        with FeatureReader(path) as reader:
            return {video: reader.video(video, []).frame_count for video in reader.videos}
    lengths: dict[str, int | None] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = re.split(r"[,\s]+", line.strip().rstrip(","))
        if fields == [""]:
            continue
        if len(fields) != 2 or not re.fullmatch(r"[1-9][0-9]{0,7}", fields[1]):
            raise UserError(f"{path}, line {number}: `video,frames` expected, not {line[:80]!r}")
        lengths[video_name(fields[0])] = int(fields[1])
    return lengths
