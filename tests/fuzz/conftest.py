"""`--fuzz N`: changed inputs per reader, many with `make fuzz`. The number of a case is its seed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest


@pytest.fixture
def cases(request) -> Iterator[tuple[str, np.random.Generator]]:
    """Pairs of a name to find the case again by, and its random generator."""
    first, count = request.config.getoption("--fuzz-from"), request.config.getoption("--fuzz")
    return ((f"case {seed}", np.random.default_rng(seed)) for seed in range(first, first + count))
