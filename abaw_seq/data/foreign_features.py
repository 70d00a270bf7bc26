"""Features that other programs extracted, read as if they were a feature file.

| what | layout |
| --- | --- |
| HDF5 file, such as those of the ABAW4 winners | `/<video>/feature` (frames, dim), optionally `/<video>/fn` (frames,) |
| folder | `<video>.npy` (frames, dim), optionally `<video>.frames.npy` (frames,) |

The features take the name of the file, without its suffix, or of the folder; `NAME=PATH` gives them
another.

`fn` and `.frames.npy` hold the frame number of each row: whole numbers, or image names that end in one;
the rows are sorted by them. Without them row k is frame k, counted from 1, unless annotations are given
that have as many frames of that video as there are rows: then row k is the k-th annotated frame, because
published features often have a row for each annotated image. Where there are fewer rows than annotated frames,
which row is which frame is not known, and the video gets no labels.
"""

from __future__ import annotations

import functools
import logging
import os
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np

from abaw_seq.data.annotations import Annotations
from abaw_seq.data.checked_file import CheckedFile
from abaw_seq.data.feature_file import FORMAT, BackboneInfo, FeatureReader, VideoFeatures
from abaw_seq.data.folder import a_few, has_suffix, list_folder, log_passed_over, video_name
from abaw_seq.data.frame_names import frame_numbers
from abaw_seq.errors import UserError
from abaw_seq.files import PathLike

log = logging.getLogger(__name__)

KIND = "file of features"
FEATURE_KEYS = ("feature", "features")
NUMBER_KEYS = ("fn", "frames", "frame")
NUMBERS_SUFFIX = ".frames"


def open_features(path: PathLike, annotations: Annotations | None = None) -> FeatureReader | ForeignReader:
    """Open a feature file, or features of another layout, for which `annotations` can give the frame numbers.

    Logs in one line where the frame numbers of another layout come from. Raises UserError for any other
    file, and for one that is truncated.

    >>> with open_features("feats.h5") as reader:
    ...     reader.features("video1", "mae").shape, reader.frames("video1")[:3].tolist()
    ((120, 12), [1, 2, 3])
    """
    path = Path(path)
    name, place = "", path
    if not path.exists() and "=" in str(path):
        name, _, rest = str(path).partition("=")
        place = Path(rest)
    if place.is_dir():
        reader = ForeignReader(place, name or place.resolve().name, annotations)
    elif _is_foreign_hdf5(place):
        reader = ForeignReader(place, name or place.stem, annotations)
    elif name:
        raise UserError(f"{path}: {place} is neither a folder of .npy files nor an HDF5 file with /<video>/feature")
    else:
        return FeatureReader(path)
    sources = ", ".join(f"{source} ({count} videos)" for source, count in sorted(reader.numbering.items()))
    log.info(f"{place}: features {reader.name!r}, frame numbers {sources}")
    if reader.unnumbered:
        log.warning(
            f"{place}: no labels for videos without frame numbers and with fewer rows than annotated frames: "
            f"{a_few(list(reader.unnumbered.values()))}; store the numbers (<video>{NUMBERS_SUFFIX}.npy, /<video>/fn)"
        )
    return reader


def _is_foreign_hdf5(path: Path) -> bool:
    """True for an HDF5 file of videos with features that is not a feature file of this tool."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with CheckedFile(path, KIND) as file:
            if file.attribute("format", str) != FORMAT:
                return any(_first(file, video, FEATURE_KEYS) for video in file.names())
    except UserError:
        pass  # truncated or damaged, as the feature file's reader will report
    return False


def _first(file: CheckedFile, video: str, keys: tuple[str, ...]) -> tuple[str, ...] | None:
    """The place of the first data set of a video that has one of these names; None if there is none."""
    places = ((video, key) for key in keys)
    return next((place for place in places if file.dataset(*place, kinds="") is not None), None)


@dataclass(frozen=True)
class _Video:
    """One video."""

    values: Callable[[], np.ndarray | h5py.Dataset]
    """opens the stored array (rows, dim)"""
    frames: np.ndarray
    """int32 (frames,): frame numbers, rising"""
    order: np.ndarray
    """(frames,): the row of each frame"""


class ForeignReader:
    """Features of another layout, with those methods of `FeatureReader` that reading needs.

    They are those of one backbone called `name`, of unknown weights; there are no labels and no splits.
    `numbering` counts by source from where the videos' frame numbers are; `unnumbered` says of each video without frame
    numbers and with fewer rows than annotated frames how many these are.
    """

    def __init__(self, path: Path, name: str, annotations: Annotations | None = None):
        self.path = path
        self.name = name
        self.numbering: Counter[str] = Counter()
        self.unnumbered: dict[str, str] = {}
        self._file = None if path.is_dir() else CheckedFile(path, KIND)
        try:
            stored = self._npy_arrays() if self._file is None else self._hdf5_arrays()
            known = annotations.videos if annotations is not None else {}
            self._videos: dict[str, _Video] = {}
            kinds = set()
            for video, (values, numbers) in stored.items():
                shape, dtype = self._kind(video, values)
                kinds.add((shape[1], "float16" if dtype == np.float16 else "float32"))
                listed = known[video].frames if video in known else None
                self._videos[video] = _Video(values, *self._numbered(video, shape[0], numbers, listed))
            if len({dim for dim, _ in kinds}) > 1:
                dims = ", ".join(str(dim) for dim in sorted({dim for dim, _ in kinds}))
                raise UserError(f"{path}: the videos' features differ in width ({dims}); give each kind its own file")
        except BaseException:
            self.close()
            raise
        dim, dtype = max(kinds)  # float32 as soon as one video is
        made = datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
        self.backbones = {name: BackboneInfo(dim, "unknown", path.name, "unknown", {}, "unknown", dtype, made)}
        self.videos: tuple[str, ...] = tuple(self._videos)

    def __enter__(self) -> ForeignReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def frames(self, video: str) -> np.ndarray:
        """Frame numbers int32 (frames,), rising."""
        return self._videos[video].frames

    def valid(self, video: str) -> np.ndarray:
        """bool (frames,), all true."""
        return np.ones(self.rows(video), bool)

    def rows(self, video: str) -> int:
        """Number of frames of a video."""
        return len(self._videos[video].frames)

    def has(self, video: str, backbone: str) -> bool:
        """True if these are the features of this backbone and have this video."""
        return backbone == self.name and video in self._videos

    def features(self, video: str, backbone: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Features float16 or float32 (stop - start, dim); UserError on NaN or infinity."""
        one = self._videos[video]
        rows = one.order[start:stop]
        first, last = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
        with np.errstate(over="ignore"):  # a number too large for the dtype becomes infinite, and is reported below
            with nullcontext() if self._file is None else self._file.reading(video):
                stored = np.asarray(one.values()[first:last])
            values = stored.astype(self.backbones[backbone].dtype, copy=False)
        values = values[rows - first]
        if not np.isfinite(values).all():
            raise UserError(f"{self.path}: video {video}: the features hold NaN or infinity; extract this video again")
        return values

    def labels(self, video: str) -> None:
        """None: such files have no labels."""

    def split(self, video: str) -> None:
        """None: such files have no splits."""

    def video(self, video: str) -> VideoFeatures:
        """A whole video in memory, ready to be written into a feature file."""
        values = {self.name: self.features(video, self.name)}
        return VideoFeatures(video, self.frames(video), self.valid(video), values, source=str(self.path))

    def _hdf5_arrays(self) -> dict[str, tuple[Callable, np.ndarray | None]]:
        arrays: dict[str, tuple[Callable, np.ndarray | None]] = {}
        assert self._file is not None
        file = self._file
        for name in file.names():
            video = video_name(name)
            if (place := _first(file, name, FEATURE_KEYS)) is None:
                raise UserError(f"{self.path}: video {video}: holds no {FEATURE_KEYS[0]}")
            numbers = None
            if numbered := _first(file, name, NUMBER_KEYS):
                numbers = file.values(file.dataset(*numbered, kinds="fiuSO"), *numbered)
            arrays[video] = functools.partial(file.dataset, *place, kinds="fiu"), numbers
        return arrays

    def _npy_arrays(self) -> dict[str, tuple[Callable, np.ndarray | None]]:
        listing = list_folder(self.path)
        names = [name for name in listing.files if has_suffix(name, (".npy",))]
        files = {video_name(os.path.splitext(name)[0]): self.path / name for name in names}
        arrays: dict[str, tuple[Callable, np.ndarray | None]] = {}
        for video, file in files.items():
            if video.endswith(NUMBERS_SUFFIX) and video.removesuffix(NUMBERS_SUFFIX) in files:
                continue
            numbers = files.get(video + NUMBERS_SUFFIX)
            arrays[video] = (lambda file=file: _load(file)), None if numbers is None else _load(numbers)
        if not arrays:
            raise UserError(f"{self.path}: holds no features, <video>.npy expected; or name a feature file")
        others = sorted({*listing.folders, *listing.files, *listing.dangling} - set(names))
        log_passed_over([self.path / name for name in others], "features")
        return arrays

    def _kind(self, video: str, values: Callable) -> tuple[tuple[int, int], np.dtype]:
        array = values()
        if array.ndim != 2 or not all(array.shape) or array.dtype.kind not in "fiu":
            shape = f"{array.dtype} {array.shape}"
            raise UserError(f"{self.path}: video {video}: features are {shape}, not numbers (frames, dim)")
        return array.shape, array.dtype

    def _numbered(
        self, video: str, rows: int, numbers: np.ndarray | None, listed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(frame numbers int32 (frames,), rising; the row of each (frames,))."""
        if numbers is None and listed is not None and len(listed) == rows:
            self.numbering["as annotated, row by row"] += 1
            return listed, np.arange(rows)
        if numbers is None and listed is not None and len(listed) > rows:
            self.unnumbered[video] = f"{video} ({rows} rows, {len(listed)} annotated frames)"
        if numbers is None:
            other = listed is not None and len(listed)
            self.numbering["counted from 1" + ", although other frames are annotated" * bool(other)] += 1
            return np.arange(1, rows + 1, dtype=np.int32), np.arange(rows)
        whole = _whole_numbers(numbers)
        if whole is None or len(whole) != rows:
            raise UserError(f"{self.path}: video {video}: its frame numbers are not one whole number for each row")
        frames, order = np.unique(whole, return_index=True)
        self.numbering["stored" + ", of a frame that comes twice the first row" * (len(frames) < rows)] += 1
        return frames.astype(np.int32), order


def _load(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UserError(f"{file}: not a plain .npy array, or truncated ({error})") from None


def _whole_numbers(numbers: np.ndarray) -> np.ndarray | None:
    """Frame numbers int64 (rows,) from numbers or image names (`426/00012.jpg`); None if one is not a frame number."""
    numbers = np.asarray(numbers).reshape(-1)
    if numbers.dtype.kind not in "fiu":
        texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in numbers]
        names = [text.strip().rpartition("/")[2] for text in texts]
        numbers = frame_numbers(names)
        if len(set(names)) > len(np.unique(numbers)):  # such as those of several faces in one frame
            return None
    whole = np.isfinite(numbers) & (numbers == np.floor(numbers)) & (numbers >= 0) & (numbers < 2**31)
    return numbers.astype(np.int64) if whole.all() else None
