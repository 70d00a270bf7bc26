"""Freed memory that the process keeps for its next step."""

from __future__ import annotations

import ctypes
import sys
from functools import cache

KEPT_BYTES = 512 * 2**20
# Options and limits of glibc's malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD = -1, -2, -3, 32 * 2**20


@cache
def keep_freed_memory() -> bool:
    """Keep up to half a gigabyte of freed memory in this process from now on; False where that is impossible.

    glibc returns large blocks to the system as soon as they are freed. A training step that allocates its
    gradients and activations anew then waits for thousands of page faults.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is None:
        return False
    options = {
        M_MMAP_THRESHOLD: LARGEST_MMAP_THRESHOLD,
        M_TRIM_THRESHOLD: KEPT_BYTES,
        M_TOP_PAD: KEPT_BYTES // 8,
    }
    return all([mallopt(option, value) for option, value in options.items()])
