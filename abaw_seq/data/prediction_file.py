"""Prediction files: per-frame probabilities of videos, whatever made them.

/                  attrs: format = "abaw-predictions", version = 1, tool
/videos/<video>    attrs: split (optional)
    frames int32 [N], valence [N], arousal [N], expression [N, 8], au [N, 12] (each task optional),
    labels float32 [N, 15] (optional): the labels that were known when the file was written
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from abaw_seq import __version__
from abaw_seq.data.checked_file import NUMBERS, CheckedFile
from abaw_seq.data.folder import video_name
from abaw_seq.errors import UserError
from abaw_seq.files import whole_file, whole_hdf5
from abaw_seq.metrics import score
from abaw_seq.run_folder import PREDICTIONS, write_scores
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS, TASKS

if TYPE_CHECKING:
    from abaw_seq.data.corpus import Corpus

FORMAT = "abaw-predictions"
VERSION = 1
CSV_ROWS = 8192
SHAPES = {"valence": (), "arousal": (), "expression": (len(EXPRESSIONS),), "au": (len(ACTION_UNITS),)}


@dataclass
class VideoPredictions:
    """The predictions of one video."""

    frames: np.ndarray
    """Frame numbers, int32 (N,)."""
    outputs: dict[str, np.ndarray]
    """{task: float32 (N, ...)}, for the tasks that were predicted."""
    labels: np.ndarray | None = None
    """Labels float32 (N, 15), NaN where a frame has none; None for a video without labels."""
    split: str | None = None

    @property
    def truth(self) -> np.ndarray:
        """Labels (N, 15), all NaN for a video without labels."""
        if self.labels is not None:
            return self.labels
        return np.full((len(self.frames), len(LABEL_COLUMNS)), np.nan, np.float32)

    @property
    def valence_arousal(self) -> np.ndarray:
        """Predicted valence and arousal (N, 2), NaN for one that was not predicted."""
        missing = np.full(len(self.frames), np.nan)
        return np.stack([self.outputs.get(task, missing) for task in ("valence", "arousal")], axis=1)


Videos = dict[str, VideoPredictions]


def write_predictions(path: str | Path, videos: Videos) -> None:
    """Write a prediction file, whole or not at all."""
    with prediction_writer(path) as add:
        add(videos)


@contextmanager
def prediction_writer(path: str | Path) -> Iterator[Callable[[Videos], None]]:
    """A function that adds videos to a prediction file, which appears once the block ends without an error."""
    with whole_hdf5(path) as file:
        file.attrs["format"] = FORMAT
        file.attrs["version"] = VERSION
        file.attrs["tool"] = f"abaw {__version__}"
        root = file.create_group("videos")

        def add(videos: Videos) -> None:
            for name, video in videos.items():
                _write_video(root.create_group(name), video)

        yield add


def _write_video(group: h5py.Group, video: VideoPredictions) -> None:
    group.create_dataset("frames", data=np.asarray(video.frames, np.int32))
    for task, values in video.outputs.items():
        group.create_dataset(task, data=np.asarray(values, np.float32))
    if video.labels is not None:
        group.create_dataset("labels", data=np.asarray(video.labels, np.float32))
    if video.split is not None:
        group.attrs["split"] = video.split


def read_predictions(path: str | Path) -> Videos:
    """Read a prediction file or a run folder's `predictions.h5`.

    Raises UserError naming the video and data set that is missing, of the wrong shape or not finite.
    """
    path = Path(path)
    if path.is_dir():
        path = path / PREDICTIONS
    if not path.is_file():
        raise UserError(f"{path}: no such prediction file; train or predict first")
    with CheckedFile(path, "prediction file") as file:
        file.check_format(FORMAT, VERSION)
        return {video_name(name): _read_video(file, name) for name in file.names("videos")}


def _read_video(file: CheckedFile, name: str) -> VideoPredictions:
    place = ("videos", name)

    def read(
        key: str, shape: tuple[int | None, ...], dtype: type[np.generic], kinds: str = NUMBERS
    ) -> np.ndarray | None:
        data = file.dataset(*place, key, kinds=kinds, shape=shape)
        return None if data is None else file.values(data, *place, key).astype(dtype)

    frames = read("frames", (None,), np.int32, "iu")
    if frames is None:
        raise file.fault("frames is missing", *place)
    outputs = {}
    for task in TASKS:
        if (values := read(task, (len(frames), *SHAPES[task]), np.float32)) is not None:
            if not np.isfinite(values).all():
                raise file.fault("holds NaN or infinity", *place, task)
            outputs[task] = values
    labels = read("labels", (len(frames), len(LABEL_COLUMNS)), np.float32)
    return VideoPredictions(frames, outputs, labels, file.attribute("split", str, *place))


def by_video(corpus: Corpus, videos: list[int], outputs: dict[str, np.ndarray]) -> Videos:
    """Predictions {task: (frames, ...)} of some videos of a corpus in a row, by name and with the corpus's labels."""
    ends = np.cumsum([0, *(corpus.lengths[video] for video in videos)])
    result = {}
    for k, video in enumerate(videos):
        own, rows = slice(ends[k], ends[k + 1]), slice(corpus.offsets[video], corpus.offsets[video + 1])
        labels = corpus.labels[rows].cpu().numpy()
        result[corpus.names[video]] = VideoPredictions(
            frames=corpus.frames[rows],
            outputs={task: values[own] for task, values in outputs.items()},
            labels=None if np.isnan(labels).all() else labels,
            split=corpus.splits[video],
        )
    return result


def save_scored(run: Path, videos: Videos, **facts: Any) -> dict[str, Any]:
    """Write `predictions.h5` and the `scores.json` that finishes a run; returns the content of `scores.json`.

    `facts` are further entries of it. Without videos no predictions are written, and `untuned` is None.
    """
    untuned = None
    if videos:
        write_predictions(run / PREDICTIONS, videos)
        untuned = score_videos(videos)
    scores = {"edition": "mtl", "split": "val", "untuned": untuned, "tuned": None, "best_epoch": None, **facts}
    write_scores(run, scores)
    return scores


def common_tasks(videos: Videos) -> list[str]:
    """The tasks that are predicted for every video."""
    return [task for task in TASKS if all(task in video.outputs for video in videos.values())]


def concatenated(videos: Videos) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """({task: (N, ...)}, labels (N, 15)) of all videos in a row, for the tasks that every video has."""
    tasks = common_tasks(videos)
    outputs = {task: np.concatenate([video.outputs[task] for video in videos.values()]) for task in tasks}
    return outputs, np.concatenate([video.truth for video in videos.values()])


def score_videos(videos: Videos, *, edition: str = "mtl") -> dict[str, Any]:
    """The scores of predictions against their own labels, over all frames of all videos together."""
    return score(*concatenated(videos), edition=edition)


def write_groups(stem: Path, groups: Iterable[Videos]) -> tuple[int, int]:
    """Write `<stem>.h5` and `<stem>.csv` of groups of videos as they come; returns (frames, videos).

    The table has a line per frame: video, frame, then for each task of the first group its value or values; for the
    expression the class and all probabilities.
    """
    groups = iter(groups)
    first = next(groups, {})
    frames = videos = 0
    paths = [stem.with_name(stem.name + suffix) for suffix in (".h5", ".csv")]
    with prediction_writer(paths[0]) as add_to_file, _csv_writer(paths[1], common_tasks(first)) as add_to_table:
        for group in chain([first], groups):
            add_to_file(group)
            add_to_table(group)
            videos += len(group)
            frames += sum(len(video.frames) for video in group.values())
    return frames, videos


@contextmanager
def _csv_writer(path: Path, tasks: list[str]) -> Iterator[Callable[[Videos], None]]:
    """A function that adds videos to a table, which appears once the block ends without an error."""
    header = ["video", "frame"]
    for task in tasks:
        names = {"expression": ["expression", *(f"p_{e}" for e in EXPRESSIONS)], "au": list(ACTION_UNITS)}
        header += names.get(task, [task])
    with whole_file(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, lineterminator="\n")
        writer.writerow(header)

        def add(videos: Videos) -> None:
            for name, video in videos.items():
                for start in range(0, len(video.frames), CSV_ROWS):
                    rows = slice(start, start + CSV_ROWS)
                    columns = [c for task in tasks for c in _csv_columns(task, video.outputs[task][rows])]
                    frames = video.frames[rows].tolist()
                    writer.writerows(zip([name] * len(frames), frames, *columns, strict=True))

        yield add


def _csv_columns(task: str, values: np.ndarray) -> list[list[str]]:
    wide = values[:, None] if values.ndim == 1 else values
    columns = [[f"{v:.4f}" for v in column] for column in wide.T]
    if task == "expression":
        columns.insert(0, [str(k) for k in values.argmax(1)])
    return columns
