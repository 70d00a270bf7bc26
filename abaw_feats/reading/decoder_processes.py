"""Processes that read and decode image files into shared memory, for devices that need more than threads decode.

Threads of one process wait for each other between images: for its lock, which every file that is opened needs. A
decoder process is a fresh interpreter that imports no torch. It takes lists of paths from its standard input, puts the
pixels into its own stretch of memory that both processes see, and answers with their shapes. It ends when its input
does, however its parent ended, and the memory belongs to no name in any file system.
"""

from __future__ import annotations

import logging
import mmap
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from logging.handlers import QueueHandler
from queue import SimpleQueue
from types import TracebackType
from typing import BinaryIO

import numpy as np

from abaw_feats.reading.decoding import decode_image, say_once
from abaw_feats.reading.state import FileState, state_of
from abaw_seq.errors import AbawError

Outcome = np.ndarray | Exception
"""Pixels uint8 (height, width, 3), RGB, or why there are none: OSError from reading, ValueError from decoding."""


def read_image(path: str) -> tuple[Outcome, FileState]:
    """Read and decode an image file; its state is that of the moment before."""
    status = data = None
    try:
        with open(path, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            data = file.read()
        return decode_image(data), state_of(status, data)
    except (OSError, ValueError) as error:
        return error, state_of(status, data)


class DecoderProcess:
    """One process, and the memory that it decodes into."""

    def __init__(self, size: int):
        """`size` bytes of memory are reserved; they are taken from the system as they are used."""
        with _unnamed_file() as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(file.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
                start_new_session=True,  # Ctrl-C is for the parent, which then closes the input
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )

    @contextmanager
    def decoded(self, paths: Sequence[str]) -> Iterator[list[tuple[Outcome, FileState]]]:
        """Outcome and state of each path; pixels are views of the shared memory, which the next call overwrites."""
        assert self._process.stdin and self._process.stdout
        try:
            pickle.dump(list(paths), self._process.stdin)
            self._process.stdin.flush()
            answers, remarks = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise AbawError(
                f"a process that decodes images ended by itself (exit code {code}), with {paths[0]} or one of the next "
                f"{len(paths) - 1} images; run the command again, it goes on from there"
            ) from error
        for remark in remarks:
            say_once(remark)
        place, outcomes = 0, []
        for answer, state in answers:
            if isinstance(answer, tuple):
                count = int(np.prod(answer))
                answer = np.frombuffer(self._memory, np.uint8, count, place).reshape(answer)
                place += count
            outcomes.append((answer, state))
        yield outcomes

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin and self._process.stdout
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            try:
                stream.close()
            except OSError:  # what was not sent yet
                pass


class Decoders:
    """Several decoder processes, used by as many threads; a context."""

    def __init__(self, count: int, size: int):
        self._all = [DecoderProcess(size) for _ in range(count)]
        self._free: SimpleQueue[DecoderProcess] = SimpleQueue()
        for process in self._all:
            self._free.put(process)

    def __enter__(self) -> Decoders:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._all:
            process.close()

    @contextmanager
    def decoded(self, paths: Sequence[str]) -> Iterator[list[tuple[Outcome, FileState]]]:
        """As `DecoderProcess.decoded`, by a process that is free."""
        process = self._free.get()
        try:
            with process.decoded(paths) as outcomes:
                yield outcomes
        finally:
            self._free.put(process)


def supported() -> bool:
    """Whether this system hands open files on to child processes: not on Windows."""
    return os.name == "posix"


@contextmanager
def _unnamed_file() -> Iterator[BinaryIO]:
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("abaw-frames"), "w+b") as file:
            yield file
    else:
        with tempfile.TemporaryFile() as file:
            yield file


def _serve(descriptor: int) -> None:
    """The program of a decoder process."""
    memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    remarks: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.getLogger().addHandler(QueueHandler(remarks))  # the parent says them
    while True:
        try:
            paths = pickle.load(requests)
        except EOFError:
            return
        outcomes = _into(memory, paths)
        texts = [remarks.get().getMessage() for _ in range(remarks.qsize())]
        pickle.dump((outcomes, texts), answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()


def _into(memory: mmap.mmap, paths: Sequence[str]) -> list[tuple[tuple[int, ...] | Outcome, FileState]]:
    """Shapes of the images that were put into memory one after the other, pixels that had no room, and errors; each
    with the state of its file.
    """
    place, answers = 0, []
    for path in paths:
        answer: tuple[int, ...] | Outcome
        answer, state = read_image(path)
        if isinstance(answer, np.ndarray) and place + answer.nbytes <= len(memory):
            np.frombuffer(memory, np.uint8, answer.nbytes, place)[:] = answer.reshape(-1)
            place += answer.nbytes
            answer = answer.shape
        answers.append((answer, state))
    return answers


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
