"""What runs, prediction files and submissions hold, with the labels that are valid now.

A run's `predictions.h5` holds copies of labels and splits. They are compared with the feature files that the run's
`provenance.json` names, as far as these are still where they were, and read afresh where they have changed.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np

from abaw_seq.data.annotations import Annotations, VideoLabels
from abaw_seq.data.feature_file import FeatureReader
from abaw_seq.data.prediction_file import VideoPredictions, Videos, read_predictions
from abaw_seq.errors import UserError
from abaw_seq.results.submission.checking import read_submission, submission_files
from abaw_seq.results.weights import load_ensemble, member_folder
from abaw_seq.run_folder import ENSEMBLE, OUT_OF_FOLD, PREDICTIONS, read_provenance

log = logging.getLogger(__name__)

HDF5_SUFFIXES = (".h5", ".hdf5")
ANNOTATION_OPTIONS = ("--annotations", "--labels")


def read_scorable(path: Path) -> Videos:
    """The predictions of a run folder, a prediction file, or a submission, recognised by their content."""
    if path.is_dir() and not (path / PREDICTIONS).exists() and submission_files(path):
        return read_submission(path)
    if path.is_file() and path.suffix not in HDF5_SUFFIXES and not h5py.is_hdf5(path):
        return read_submission(path)
    return read_predictions(path)


def read_current(path: Path) -> Videos:
    """The predictions of a run folder or a prediction file with current labels; says in one line which are new."""
    videos, note = with_current_labels(read_predictions(path), path)
    if note:
        log.warning(f"{path}: {note}")
    return videos


def with_current_labels(videos: Videos, path: Path) -> tuple[Videos, str]:
    """Predictions read from `path` with the labels and splits of their feature files, and a note on those that changed.

    What the feature files do not have (a video, a frame, any labels of a video, its split) stays as it was copied. All
    of it stays, and the note is empty, where nothing changed, a feature file is gone or the run took its labels from
    annotations.
    """
    run = path.parent if path.name in (PREDICTIONS, OUT_OF_FOLD) else path
    files = [Path(file) for file in _label_files(run)]
    if not all(file.exists() for file in files):
        return videos, ""
    with ExitStack() as stack:
        readers = [stack.enter_context(reader) for file in files if (reader := _feature_reader(file)) is not None]
        current = {name: _current(readers, name, video) for name, video in videos.items()}
    changed = [name for name, video in current.items() if not _same_labels(video, videos[name])]
    if not changed:
        return videos, ""
    names = ", ".join(map(str, files))
    return current, f"labels of {len(changed)} of {len(videos)} videos have changed and are read afresh from {names}"


def _label_files(run: Path) -> list[str]:
    """The feature files that a run's labels are from; none where they are from elsewhere, or this is not known."""
    made = read_provenance(run)
    if made is not None:
        # Runs of earlier versions do not record where labels are from, but their command does.
        from_command = any(str(word).startswith(ANNOTATION_OPTIONS) for word in made.get("command", ()))
        labels = made.get("labels", "annotations" if from_command else "features")
        return made.get("features", []) if labels == "features" else []
    if (run / ENSEMBLE).is_file():  # its labels are those of its first member
        member = next((member_folder(run, name) for name in load_ensemble(run).members), None)
        return _label_files(member) if member else []
    return []


def _feature_reader(file: Path) -> FeatureReader | None:
    """An open feature file; None for features of another layout, which hold no labels."""
    try:
        return FeatureReader(file)
    except UserError:
        return None


def _current(readers: list[FeatureReader], name: str, video: VideoPredictions) -> VideoPredictions:
    """A video with the labels that several feature files give together: where two have one, that of the first."""
    labels, known = np.full_like(video.truth, np.nan), np.zeros(len(video.frames), bool)
    split = None
    for reader in readers:
        if name not in reader.videos:
            continue
        split = split or reader.split(name)
        if (stored := reader.labels(name)) is not None:
            own = Annotations({name: VideoLabels(reader.frames(name), stored, None)})
            np.copyto(labels, own.for_frames(name, video.frames), where=np.isnan(labels))
            known |= np.isin(video.frames, own.videos[name].frames)
    labels = np.where(known[:, None], labels, video.truth)
    return dataclasses.replace(video, labels=None if np.isnan(labels).all() else labels, split=split or video.split)


def _same_labels(one: VideoPredictions, other: VideoPredictions) -> bool:
    return one.split == other.split and np.array_equal(one.truth, other.truth, equal_nan=True)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each run or file, distinct from the others: the last parts of its path, as many as it takes."""
    parts = [_named_by(path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f"the same run is given twice: {', '.join(map(str, paths))}")


def _named_by(path: Path) -> Path:
    """What names a path: a run's folder, a file without its suffix."""
    if path.is_dir():
        return path
    return path.parent if path.stem == Path(PREDICTIONS).stem else path.with_suffix("")
