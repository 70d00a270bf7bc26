"""`python -m tests.benchmarks [NAME...]`: runs the benchmarks named, or all, and prints their Markdown tables."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def main(names: list[str]) -> None:
    """Each `bench_<name>.py` here has a `run()` that yields its tables; an unknown name is answered with theirs."""
    found = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if unknown := [name for name in names if name not in found]:
        sys.exit(f"no benchmark {unknown[0]!r}: one of {', '.join(found)}")
    for name in names or found:
        for table in importlib.import_module(f"{__package__}.bench_{name}").run():
            print(table, end="\n\n", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
