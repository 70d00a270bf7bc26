"""Batches of frames, decoded in the background; a batch may contain frames of several videos."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import numpy as np
import torch

from abaw_feats.reading.decoder_processes import Decoders, Outcome, read_image
from abaw_feats.reading.decoding import Unreadable, decoded_bytes
from abaw_feats.reading.frames import VideoSource
from abaw_feats.reading.state import FileState, state_of_video_file
from abaw_feats.reading.video_file import BrokenOff, decode_video
from abaw_seq.data.frame_names import frame_files

# Batches of large frames are smaller, so that those in memory together have a bounded size.
MAX_BATCH_BYTES = 128 * 2**20

Decoded = Callable[[Sequence[str]], AbstractContextManager[Iterable[tuple[Outcome, FileState]]]]


@dataclass
class Piece:
    """Successive rows of a batch that are frames of one video."""

    video: VideoSource
    frames: list[int] = field(default_factory=list)
    """The frame number of each row."""
    contents: list[str | np.ndarray | Unreadable] = field(default_factory=list)
    """Path, pixels or neither of each row; empty once the batch is decoded."""
    valid: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    """bool (rows,), false for a frame that could not be decoded; set once the batch is decoded."""
    ends: bool = False
    """Whether the video ends here."""
    problem: str = ""
    """Why the video could not be read, if so: nothing of it is usable."""
    incomplete: str = ""
    """Why the video file ends too early, if so: what comes before is usable."""
    unreadable: dict[int, str] = field(default_factory=dict)
    """{frame number: why it could not be decoded}; set once the batch is decoded."""
    states: list[FileState] = field(default_factory=list)
    """Of each row's image file, or with the first row of the video file, its state when it was read."""


@dataclass
class Batch:
    """Successive frames of successive videos."""

    pieces: list[Piece]
    images: list[tuple[np.ndarray, torch.Tensor]]
    """For each image size: rows int64 (n,) rising, and pixels uint8 (n, height, width, 3), RGB."""
    capacity: int
    """The number of rows that a network computes; rows without an image are zeros.

    It is the same for all batches of images of one size, the last one included, so that results are rounded alike.
    """

    @property
    def rows(self) -> int:
        """The number of frames."""
        return sum(len(piece.frames) for piece in self.pieces)


def load_batches(
    videos: Iterable[VideoSource], *, batch_size: int, workers: int, processes: bool = False, pin_memory: bool = False
) -> Iterator[Batch]:
    """Decode the frames of the videos in order, every frame once.

    One thread lists folders and reads video files, `workers` threads or `processes` read and decode images, a few
    batches ahead of the caller. A video that cannot be listed or read ends early, with its `problem` set.
    """
    jobs = _jobs(videos, batch_size)
    ahead: deque[Future] = deque()
    with ExitStack() as stack:
        decoded = stack.enter_context(Decoders(workers, MAX_BATCH_BYTES)).decoded if processes else _decoded_here
        reader = stack.enter_context(ThreadPoolExecutor(1))
        # Each process has a thread that waits for it, and one more puts its pixels in place meanwhile.
        threads = stack.enter_context(ThreadPoolExecutor(workers))

        def start() -> Future | None:
            job = next(jobs, None)
            return None if job is None else threads.submit(_decode, *job, decoded, pin_memory)

        try:
            ahead.extend(reader.submit(start) for _ in range(workers + 1))
            while (decoding := ahead.popleft().result()) is not None:
                ahead.append(reader.submit(start))
                yield decoding.result()
        finally:
            for future in ahead:
                future.cancel()


def _jobs(videos: Iterable[VideoSource], batch_size: int) -> Iterator[tuple[list[Piece], int]]:
    """(pieces, capacity) of each batch, not decoded yet."""
    pieces: list[Piece] = []
    rows = size = 0
    for video in videos:
        piece = Piece(video)
        pieces.append(piece)
        frame_bytes = 0
        try:
            for number, content in _contents(video, piece):
                frame_bytes = frame_bytes or _decoded_bytes(content)  # the others of the video are taken to be alike
                large = size + frame_bytes > MAX_BATCH_BYTES
                if rows == batch_size or (large and rows):
                    # A power of two, so that few shapes occur.
                    yield pieces, min(batch_size, 1 << (rows - 1).bit_length()) if large else batch_size
                    piece = Piece(video)
                    pieces, rows, size = [piece], 0, 0
                piece.frames.append(number)
                piece.contents.append(content)
                rows += 1
                size += frame_bytes
        except BrokenOff as error:
            piece.incomplete = _one_line(error)
        except (ValueError, OSError) as error:
            piece.problem = _one_line(error)
        piece.ends = True
    if pieces:
        yield pieces, batch_size


def _contents(video: VideoSource, first: Piece) -> Iterator[tuple[int, str | np.ndarray | Unreadable]]:
    """(frame number, path, pixels or neither) of every frame; `first` is the video's first piece."""
    if video.is_file:
        first.states.append(state_of_video_file(video.path))
        yield from enumerate(decode_video(video.path), start=1)
        return
    numbers, names = frame_files(video.path)
    for number, name in zip(numbers.tolist(), names, strict=True):
        yield number, f"{video.path}{os.sep}{name}"


def _decoded_bytes(content: str | np.ndarray | Unreadable) -> int:
    """Size of a frame once it is decoded; 0 for one that is not."""
    if isinstance(content, Unreadable):
        return 0
    return content.nbytes if isinstance(content, np.ndarray) else decoded_bytes(content)


def _decode(pieces: list[Piece], capacity: int, decoded: Decoded, pin_memory: bool) -> Batch:
    paths = [content for piece in pieces for content in piece.contents if isinstance(content, str)]
    by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    row = 0
    with decoded(paths) if paths else nullcontext(()) as outcomes:
        read = iter(outcomes)
        for piece in pieces:
            piece.valid = np.zeros(len(piece.contents), bool)
            for k, content in enumerate(piece.contents):
                outcome: Outcome | Unreadable
                if isinstance(content, str):
                    outcome, state = next(read)
                    piece.states.append(state)
                else:
                    outcome = content
                if isinstance(outcome, np.ndarray):
                    piece.valid[k] = True
                    by_size.setdefault(outcome.shape[:2], []).append((row + k, outcome))
                else:
                    piece.unreadable[piece.frames[k]] = _reason(piece, outcome)
            row += len(piece.contents)
            piece.contents = []
        groups = [_stack(rows_of_size, pin_memory) for rows_of_size in by_size.values()]
    return Batch(pieces, groups, capacity)


@contextmanager
def _decoded_here(paths: Sequence[str]) -> Iterator[Iterator[tuple[Outcome, FileState]]]:
    yield map(read_image, paths)


def _reason(piece: Piece, error: Exception | Unreadable) -> str:
    """Why a frame cannot be decoded and is not valid; storage that fails is a problem of the whole video."""
    if isinstance(error, Unreadable):
        return error.reason
    if isinstance(error, FileNotFoundError):
        if not piece.video.path.exists():
            piece.problem = "the folder has disappeared"
    elif isinstance(error, OSError) and not isinstance(error, (IsADirectoryError, PermissionError)):
        piece.problem = _one_line(error)
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else _one_line(error)


def _stack(rows: list[tuple[int, np.ndarray]], pin_memory: bool) -> tuple[np.ndarray, torch.Tensor]:
    pixels = torch.empty((len(rows), *rows[0][1].shape), dtype=torch.uint8, pin_memory=pin_memory)
    np.stack([image for _, image in rows], out=pixels.numpy())
    return np.array([row for row, _ in rows]), pixels


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
