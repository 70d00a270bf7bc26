"""A lock file, by which processes that would write the same output keep out of each other's way."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from abaw_seq.errors import UserError

log = logging.getLogger(__name__)

ATTEMPTS = 1000


@contextmanager
def held_lock(path: Path, *, output: Path) -> Iterator[None]:
    """Hold the lock file at `path` for writing `output` until the end of the block; its folder is made.

    The holder is named in the file, and the system releases it by whatever death. On a file system without locks one
    line says that nobody guards the output. Raises UserError, which names the holder, while another process holds it,
    and where the file cannot be written.
    """
    lock = FileLock(path, blocking=False, fallback_to_soft=False, thread_local=False)
    _acquire(lock, path, output)
    try:
        yield
    finally:
        with suppress(OSError):  # Windows removes no open file; and whoever waits looks whether the name is gone
            path.unlink(missing_ok=True)
        lock.release()


def _acquire(lock: FileLock, path: Path, output: Path) -> None:
    problem: OSError = FileNotFoundError(f"{path}: other processes delete it again and again")
    for _ in range(ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
                _name_holder(path)
            except (FileNotFoundError, FileExistsError, Timeout):
                raise
            except OSError as error:
                _name_holder(path)  # if this succeeds, the place is sound and only locks are missing
                reason = error.strerror or error
                log.warning(
                    f"{output}: its file system knows no locks ({reason}); nothing keeps others from writing it too"
                )
            return
        except Timeout:
            with suppress(FileNotFoundError):  # its holder has just deleted it
                holder = path.read_text(errors="replace") or "another process"
                raise UserError(
                    f"{output}: {holder} is writing it; wait until it ends or choose another output"
                ) from None
        except (FileNotFoundError, FileExistsError) as error:
            problem = error  # these come while the process before us deletes the folder
        except OSError as error:
            problem = error
            break
    raise UserError(f"{path.parent}: {problem.strerror or problem}; choose another output")


def _name_holder(path: Path) -> None:
    path.write_text(f"process {os.getpid()} on {socket.gethostname()}")
