"""`abaw-seq submit`: the file or files that a test set asks for, written, and checked as the organisers would."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import h5py

from abaw_seq.data.annotation_formats import is_video_list, recognise_header
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.label_text import first_filled_line
from abaw_seq.data.prediction_file import VideoPredictions, Videos, read_predictions
from abaw_seq.errors import UserError
from abaw_seq.results.postprocess import load_postprocess
from abaw_seq.results.submission.checking import check_submission, check_video_submissions
from abaw_seq.results.submission.writing import (
    FILLS,
    VIDEO_HEADERS,
    ImageList,
    read_image_list,
    write_submission,
    write_video_submissions,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a test set asks for: one file in the order of a list, or one file per video."""

    source: Path
    """The file that says so."""
    kind: str
    """`mtl`, or one of `VIDEO_HEADERS`."""
    images: ImageList | None = None
    """The list; None for one file per video."""
    lengths: Mapping[str, int | None] | None = None
    """{video: its number of frames}, None where that is not known, which is enough for a check of the form."""


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
        return Wanted(listed, images.kind, images=images)
    if edition not in VIDEO_HEADERS:
        raise UserError(f"{source}: one file per video needs an edition, one of {', '.join(VIDEO_HEADERS)}")
    known = read_lengths(lengths) if lengths is not None else {}
    videos = _read_video_list(listed) if listed is not None else list(known)
    return Wanted(source, edition, lengths={video: known.get(video) for video in videos})


def _read_video_list(path: Path) -> list[str]:
    """The names of a test set's videos, one per line."""
    text = path.read_text(encoding="utf-8-sig")
    if not is_video_list(text):
        raise UserError(f"{path}: not a list of videos: one name per line is expected")
    return [name.rstrip(",") for name in text.split()]


def read_lengths(path: Path) -> dict[str, int | None]:
    """Frames per video, from lines `<video>,<frames>` or a feature file; None where the latter does not say."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of video lengths")
    if h5py.is_hdf5(path):
        with FeatureReader(path) as reader:
            return {video: reader.video(video, []).frame_count for video in reader.videos}
    lengths = {}
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), 1):
        fields = re.split(r"[,\s]+", line.strip().rstrip(","))
        if fields == [""]:
            continue
        if len(fields) != 2 or not re.fullmatch(r"[1-9][0-9]{0,7}", fields[1]):
            raise UserError(f"{path}, line {number}: `video,frames` expected, not {line[:80]!r}")
        lengths[fields[0]] = int(fields[1])
    return lengths


def predictions_to_submit(source: Path) -> Videos:
    """A prediction file as it is; a run's predictions with the smoothing, thresholds and biases stored there."""
    videos = read_predictions(source)
    stored = load_postprocess(source) if source.is_dir() else None
    if stored is None:
        return videos
    log.info(f"{source}: smoothing, thresholds and biases as stored in the run")
    return stored.apply(videos)


def write_checked(
    output: Path, wanted: Wanted, predictions: Mapping[str, VideoPredictions], *, fill: str = "nearest"
) -> str:
    """Write what is wanted to `output` (a file, or a folder for one file per video) and check it; one line about it."""
    if wanted.images is not None:
        written = write_submission(output, wanted.images, predictions, fill=fill)
    else:
        if unknown := [video for video, length in wanted.lengths.items() if length is None]:
            raise UserError(f"{wanted.source}: the number of frames of video {unknown[0]} is not known, give lengths")
        written = write_video_submissions(output, wanted.kind, wanted.lengths, predictions, fill=fill)
    rows = checked(output, wanted)
    return f"{output}: {rows:,} rows, checked against {wanted.source}; {written.filled:,} filled {FILLS[fill]}"


def checked(path: Path, wanted: Wanted) -> int:
    """The number of rows of a submission file or folder; UserError for its first fault."""
    if not path.exists():
        raise UserError(f"{path}: no such submission to check")
    if wanted.images is not None:
        return check_submission(path, wanted.images)
    return check_video_submissions(path, wanted.kind, wanted.lengths)
