"""Signals that end a command: in one line, with the exit code that shells expect, and with its child processes."""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

ENDING = {
    getattr(signal, name): word
    for name, word in (("SIGINT", "interrupted"), ("SIGTERM", "ended by SIGTERM"), ("SIGHUP", "ended by SIGHUP"))
    if hasattr(signal, name)  # Windows has no SIGHUP
}
CLOSED_PIPE = 128 + 13  # as if SIGPIPE had ended the process
REPEATED_SECONDS = 2.0  # wrappers pass on a signal that the whole group has received already

_received: list[tuple[int, float]] = []


class Ended(BaseException):
    """A signal has ended the command; raised in the main thread, wherever that is."""


@contextmanager
def ending_signals() -> Iterator[None]:
    """Within the block Ctrl-C, SIGTERM and SIGHUP end the process: in one line, once blocks have cleaned up.

    Its child processes are ended first. A signal that whoever started the process had set to be ignored (`nohup`) is
    still ignored; so is none in a thread other than the main one, where handlers cannot be set.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        usual = (signal.SIG_DFL, signal.default_int_handler)
        before = {number: signal.getsignal(number) for number in ENDING if signal.getsignal(number) in usual}
        for number in before:
            signal.signal(number, _end)
    try:
        yield
    except (Exception, KeyboardInterrupt, Ended):  # what an end breaks on its way is no error of its own
        if not _received:
            raise
        _leave()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _received.clear()


def _end(number: int, frame: Any) -> None:
    if _received and time.monotonic() - _received[-1][1] < REPEATED_SECONDS:
        return
    _received.append((number, time.monotonic()))
    if processes := sys.modules.get("multiprocessing"):
        for child in processes.active_children():
            child.terminate()
    raise Ended


def is_received() -> bool:
    """Whether a signal is about to end the command."""
    return bool(_received)


def _leave() -> NoReturn:
    """End by the signal that was received first."""
    number = _received[0][0]
    with suppress(OSError):  # nobody may be left to read it
        sys.stderr.write(f"{ENDING[signal.Signals(number)]}: what was finished is kept\n")
        sys.stderr.flush()
    sys.exit(128 + number)


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes that are started in this block do not hear Ctrl-C: the command, which does, ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Make this worker process end when the process that started it is killed."""
    from multiprocessing import parent_process

    def wait() -> None:
        if (parent := parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def leave_if_nobody_reads() -> None:
    """End with `CLOSED_PIPE` where whatever read the output (`| head`) is gone; to be called after a broken pipe."""
    if _is_read(1) and _is_read(2):
        return
    with suppress(OSError), open(os.devnull, "w") as nothing:  # so that the last flush succeeds
        for stream in (1, 2):
            if not _is_read(stream):
                os.dup2(nothing.fileno(), stream)
    sys.exit(CLOSED_PIPE)


def _is_read(stream: int) -> bool:
    if not hasattr(select, "poll"):
        return False
    watched = select.poll()
    watched.register(stream, 0)
    return not any(events & select.POLLERR for _, events in watched.poll(0))
