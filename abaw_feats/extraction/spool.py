"""Finished videos on their way into a feature file.

Beside `feats.h5` the folder `feats.h5.parts` holds one complete feature file per finished video, and a
lock. A file under a part's name is whole and on disk; what a killed process left unfinished is deleted.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from abaw_feats.reading.frames import VideoSource
from abaw_feats.reading.state import FileState, stamp_and_content
from abaw_seq.data.feature_file import CHUNK_ROWS, BackboneInfo, VideoFeatures, atomic_feature_file
from abaw_seq.data.source_record import SourceRecord
from abaw_seq.errors import AbawError
from abaw_seq.files import check_output, remove_leftovers, reserve
from abaw_seq.locks import held_lock

if TYPE_CHECKING:  # merging needs no image decoder
    from abaw_feats.extraction.batches import Batch, Piece

COPY_ROWS = 4096
OVERHEAD_BYTES = 64 * 1024
KINDS_STORED, LONGEST_REASON = 20, 200  # of the reasons why frames could not be read


class Spool:
    """The folder of finished videos that belongs to one output file."""

    def __init__(self, out: str | Path):
        self.out = Path(out)
        self.folder = self.out.with_name(self.out.name + ".parts")

    def parts(self) -> list[Path]:
        """The finished videos' feature files."""
        return sorted(path for path in self.folder.glob("*.h5") if not path.name.startswith("."))

    def begin(self, video: VideoSource, backbones: dict[str, BackboneInfo]) -> Part:
        """Start a video; nothing of it counts until its `finish`."""
        return Part(self._part_path(video.name, backbones), video, backbones)

    def sweep(self) -> None:
        """Delete what a killed process left unfinished; only for the holder of the lock."""
        for path in self.folder.glob(".*.tmp"):
            path.unlink(missing_ok=True)
        remove_leftovers(self.out)

    def remove(self) -> None:
        """Delete the folder, once its videos are in the output."""
        for part in self.parts():
            part.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)  # once the lock is gone, another process may begin here

    def _part_path(self, video: str, backbones: dict[str, BackboneInfo]) -> Path:
        # A name from outside never becomes a path: the file name only hints at it, the hash tells videos apart.
        key = "\0".join([video, *sorted(backbones)]).encode("utf-8", "surrogateescape")
        hint = re.sub(r"[^A-Za-z0-9_-]", "_", video)[:60]
        return self.folder / f"{hint}-{hashlib.sha256(key).hexdigest()[:16]}.h5"


class Part:
    """One video being extracted; its rows wait in unnamed files that the system deletes with the process."""

    def __init__(self, path: Path, video: VideoSource, backbones: dict[str, BackboneInfo]):
        self.video = video
        self._path = path
        self._backbones = backbones
        self._reasons: list[str] = []
        self._states: list[FileState] = []
        self._incomplete = ""
        self._frames: list[np.ndarray] = []
        self._valid: list[np.ndarray] = []
        self._rows = {name: tempfile.TemporaryFile(dir=path.parent) for name in backbones}

    def append(self, piece: Piece, features: dict[str, np.ndarray]) -> None:
        """Add the n rows of a piece, with features {backbone: (n, dim)} of the dtype that is stored."""
        self._states += piece.states
        self._incomplete = piece.incomplete
        self._reasons += piece.unreadable.values()
        self._frames.append(np.array(piece.frames, np.int32))
        self._valid.append(piece.valid)
        for name, rows in features.items():
            self._rows[name].write(np.ascontiguousarray(rows).data)

    def finish(self) -> None:
        """Put the video on disk as a complete feature file."""
        valid = np.concatenate(self._valid)
        reserve(self._path, self._size(len(valid)))
        described = VideoFeatures(
            name=self.video.name,
            frames=np.concatenate(self._frames),
            valid=valid,
            source=str(self.video.path),
            fps=self.video.fps,
            frame_count=len(valid) if self.video.is_file else None,
            record=self._record(),
        )
        with atomic_feature_file(self._path) as writer:
            group = writer.begin_video(described)
            for name, info in self._backbones.items():
                writer.add_backbone(name, info)
                target = writer.create_features(group, name, len(valid), info.dim, info.dtype)
                file, row_bytes = self._rows[name], info.dim * target.dtype.itemsize
                file.seek(0)
                for start in range(0, len(valid), COPY_ROWS):
                    rows = np.frombuffer(file.read(COPY_ROWS * row_bytes), info.dtype)
                    target[start : start + COPY_ROWS] = rows.reshape(-1, info.dim)
        self.close()

    def _record(self) -> SourceRecord:
        numbers: Sequence[int] | np.ndarray = [] if self.video.is_file else np.concatenate(self._frames)
        stamp, content = stamp_and_content(numbers, self._states) if self._states else ("", "")
        return SourceRecord(stamp, content, self._incomplete, _count_by_kind(self._reasons))

    @property
    def count(self) -> int:
        """Rows so far."""
        return sum(len(valid) for valid in self._valid)

    def readable(self) -> bool:
        """True if any frame of the video could be read."""
        return any(valid.any() for valid in self._valid)

    def nothing_read(self) -> str:
        """Why there is not one readable frame."""
        reasons = told(_count_by_kind(self._reasons))
        return f"none of its frames can be read: {reasons}" if self.count else "it has no frames"

    def close(self) -> None:
        """Delete the rows that wait, whether the video is finished or given up."""
        for file in self._rows.values():
            with suppress(OSError):  # a full disk cannot take what is still buffered, and nobody needs it
                file.close()

    def _size(self, rows: int) -> int:
        """The most bytes that the feature file can take; chunks are stored whole."""
        whole = -(-rows // CHUNK_ROWS) * CHUNK_ROWS
        row_bytes = sum(info.dim * np.dtype(info.dtype).itemsize for info in self._backbones.values())
        return whole * (row_bytes + 5) + OVERHEAD_BYTES


def told(reasons: dict[str, int], most: int = 3) -> str:
    """{why frames could not be read: how many} as text, the most frequent first.

    >>> told({"not an image": 1, "no such file": 12})
    'no such file (12 frames), not an image (1 frame)'
    """
    counted = sorted(reasons.items(), key=lambda item: -item[1])
    texts = [f"{reason} ({count} frame{'s' * (count != 1)})" for reason, count in counted[:most]]
    return ", ".join(texts + ["..."] * (len(counted) > most))


def _count_by_kind(reasons: list[str]) -> dict[str, int]:
    """{the first reason of each kind: how many of the kind}; reasons that differ in numbers alone are of one kind."""
    kinds = [re.sub(r"\d+", "0", reason) for reason in reasons]
    first: dict[str, str] = {}
    for kind, reason in zip(kinds, reasons, strict=True):
        first.setdefault(kind, reason[:LONGEST_REASON])
    return {first[kind]: count for kind, count in Counter(kinds).most_common(KINDS_STORED)}


class SpoolWriter:
    """Puts the rows of one batch after the other into parts; to be called from one thread.

    `failures` says why each video that was given up was, by its name; `finished` counts the others.
    """

    def __init__(self, spool: Spool, backbones: dict[str, BackboneInfo]):
        self.failures: dict[str, str] = {}
        self.finished = 0
        self._spool = spool
        self._backbones = backbones
        self._part: Part | None = None
        self._broken = False

    def write(self, batch: Batch, features: dict[str, np.ndarray]) -> None:
        """Take a batch's features {backbone: (capacity, dim)}; videos that end in it are on disk afterwards.

        Raises AbawError if the disk refuses; nothing is written after that.
        """
        if self._broken:
            return
        self._broken = True  # until all of the batch is written: a gap must never become a finished video
        try:
            first = 0
            for piece in batch.pieces:
                rows = slice(first, first + len(piece.frames))
                self._write_piece(piece, {name: values[rows] for name, values in features.items()})
                first = rows.stop
        except OSError as error:
            raise disk_error(self._spool.out, error) from error
        self._broken = False

    def close(self) -> None:
        """Give up the video under way, if any."""
        if self._part is not None:
            self._part.close()

    def _write_piece(self, piece: Piece, features: dict[str, np.ndarray]) -> None:
        name = piece.video.name
        if self._part is None:
            chosen = {backbone: self._backbones[backbone] for backbone in features}
            self._part = self._spool.begin(piece.video, chosen)
        if problem := piece.problem or _not_finite(piece, features):
            self.failures.setdefault(name, problem)
        if name not in self.failures:
            for values in features.values():
                values[~piece.valid] = 0
            self._part.append(piece, features)
        if not piece.ends:
            return
        if name not in self.failures and not self._part.readable():
            self.failures[name] = self._part.nothing_read()
        if name not in self.failures:
            self._part.finish()
            self.finished += 1
        self._part.close()
        self._part = None


def _not_finite(piece: Piece, features: dict[str, np.ndarray]) -> str:
    for backbone, values in features.items():
        bad = piece.valid & ~np.isfinite(values).all(1)
        if bad.any():
            frame = piece.frames[int(bad.argmax())]
            advice = "try the dtype float32 or the precision fp32"
            return f"{backbone} gives NaN or infinity for frame {frame}; {advice}"
    return ""


@contextmanager
def locked_spool(out: str | Path) -> Iterator[Spool]:
    """The spool of an output file, held by this process alone until the end of the block.

    If no finished video is left in it, the folder is deleted. Raises UserError if the output cannot be
    written to this place, or while another process holds it.
    """
    spool = Spool(out)
    check_output(spool.out)
    with held_lock(spool.folder / "lock", output=spool.out):
        try:
            spool.sweep()
            yield spool
        finally:
            if spool.folder.exists() and not spool.parts():
                spool.remove()


def disk_error(out: Path, error: OSError) -> AbawError:
    """The error for the user when writing beside `out` has failed."""
    return AbawError(
        f"{out}: could not be written ({error.strerror or error}); once there is room, "
        "run the same command again: finished videos are kept"
    )
