"""Changed inputs, drawn from a seed, and what a reader may do with them: read them, or refuse them in one line."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from abaw_seq.errors import UserError

SECONDS = 10
MEMORY = 512 * 2**20


def changed_bytes(data: bytes, rng: np.random.Generator) -> bytes:
    """`data` with one to four of: bytes overwritten, a stretch cut, repeated, zeroed or moved, an end broken off."""
    blob = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if not blob:
            break
        start = int(rng.integers(len(blob)))
        stop = min(len(blob), start + int(2 ** rng.uniform(0, 10)))
        match rng.integers(6):
            case 0:
                for place in rng.integers(start, stop, 4):
                    blob[place] = rng.integers(256)
            case 1:
                del blob[start:stop]
            case 2:
                blob[start:start] = blob[start:stop]
            case 3:
                blob[start:stop] = bytes(stop - start)
            case 4:
                piece = blob[start:stop]
                del blob[start:stop]
                there = int(rng.integers(len(blob) + 1))
                blob[there:there] = piece
            case 5:
                del blob[start:]
    return bytes(blob)


@contextmanager
def read_or_refused(what: str) -> Iterator[None]:
    """The body may end well or with a UserError of one line: within 10 s, and in less than 512 MB more memory."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"{what}: still running after {SECONDS} s")

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    previous = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(SECONDS)
    try:
        yield
    except UserError as error:
        message = str(error)
        assert message.strip(), f"{what}: refused without a reason"
        assert "\n" not in message, f"{what}: refused in several lines: {message}"
        assert len(message) < 2000, f"{what}: refused at length: {message}"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__} reached the user: {error}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, previous)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < MEMORY, f"{what}: took {grown / 2**20:.0f} MB"
