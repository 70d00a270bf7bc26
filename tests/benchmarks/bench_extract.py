"""How close extraction comes to its bound, and how far it is from the plain loop.

    python -m tests.benchmarks.bench_extract            all tables, some minutes on two cores
    python -m tests.benchmarks.bench_extract --quick    a few seconds of each

Random weights: the arithmetic is the same. All numbers of a row come from one interleaved run; compare
ratios, not rates, between runs.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from abaw_feats.backbones import LoadedBackbone, find_spec, load
from abaw_feats.extraction import extract as engine
from abaw_feats.extraction.encoders import Encoder, batch_rows, describe, one_part_per_core, prepare_encoders
from abaw_feats.extraction.extract import extract
from abaw_feats.extraction.join import join_files
from abaw_feats.extraction.spool import SpoolWriter, locked_spool
from abaw_feats.reading.decoding import decode_image
from abaw_feats.reading.frames import list_videos

BACKBONES = ("mae", "iresnet100", "densenet")
TINY = "name: tiny\nlike: mae\noptions: {patch: 16, width: 16, depth: 1, heads: 1}\npreprocessing: {size: 32}\n"


def run() -> Iterator[str]:
    """The tables of a full run, as Markdown."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        main([])
    yield printed.getvalue().strip()


def main(arguments: list[str] | None = None) -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small samples: the tables, not the truth")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--encoders", nargs="+", choices=BACKBONES, default=BACKBONES)
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.peak:
        return print_peak(options.peak)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    seconds = 1.5 if options.quick else 20
    print(f"\n{hardware(device)}; {products(device)}\n")
    with tempfile.TemporaryDirectory() as folder, quiet():
        scratch = Path(folder)
        rounds = 1 if options.quick else options.rounds
        rates_table(scratch, device, options.encoders, seconds=seconds, rounds=rounds)
        stages_table(scratch, frames=500 if options.quick else 5000)
        memory_table(scratch, counts=(500, 2000) if options.quick else (10_000, 100_000))


def rates_table(scratch: Path, device: torch.device, encoders: list[str], *, seconds: float, rounds: int) -> None:
    """Frames per second end to end, as shares of the forward bound and multiples of the plain loop."""
    print("| encoder | precision | plain loop | forward bound | end to end | of the bound | over the plain loop |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in encoders:
        loaded = load(find_spec(name), "random")
        for precision in ("bf16", "fp32"):
            encoder = prepare_encoders({name: loaded}, device=device, precision=precision, rows=None)[name]
            forward_bound(encoder, 0.5)
            rows = batch_rows([encoder]) * torch.get_num_threads()
            batches = max(round(forward_bound(encoder, seconds / 8) * seconds / rows), 2)
            frames = make_frames(scratch / f"{name}-{precision}", batches * rows, videos=3)
            found: dict[str, list[float]] = {"plain": [], "bound": [], "whole": []}
            for _ in range(rounds):
                found["plain"].append(plain_loop(loaded, device, frames, seconds / 4))
                found["bound"].append(forward_bound(encoder, seconds / 2))
                found["whole"].append(end_to_end(loaded, device, frames, precision, scratch / "feats.h5"))
                found["bound"].append(forward_bound(encoder, seconds / 2))
            plain, bound, whole = (statistics.mean(found[key]) for key in ("plain", "bound", "whole"))
            rates = f"{plain:.1f} | {bound:.1f} | {whole:.1f}"
            print(f"| {name} | {precision} | {rates} | {whole / bound:.2f} | {whole / plain:.1f} |", flush=True)


def plain_loop(loaded: LoadedBackbone, device: torch.device, folder: Path, seconds: float) -> float:
    """Frames per second of the usual script: PIL, one image at a time, float32."""
    pre = loaded.spec.preprocessing
    resample = Image.Resampling.BICUBIC if pre.resize == "bicubic" else Image.Resampling.BILINEAR
    module = loaded.module.to(device)
    mean = torch.tensor(pre.mean).view(-1, 1, 1)
    std = torch.tensor(pre.std).view(-1, 1, 1)
    paths = sorted(folder.rglob("*.jpg"))
    begun, done, features = time.perf_counter(), 0, []
    with torch.no_grad():
        while time.perf_counter() - begun < seconds:
            image = Image.open(paths[done % len(paths)]).convert("L" if pre.colour == "grey" else "RGB")
            pixels = np.array(image.resize((pre.size, pre.size), resample), np.float32).reshape(pre.size, pre.size, -1)
            x = (torch.from_numpy(pixels).permute(2, 0, 1) / pre.scale - mean) / std
            features.append(module(x[None].to(device)).cpu().numpy())
            done += 1
    loaded.module.cpu()
    return done / (time.perf_counter() - begun)


def forward_bound(encoder: Encoder, seconds: float) -> float:
    """Frames per second of the encoder alone, on normalised batches that are on the device already.

    On the CPU each core computes on batches of its own and never waits, as fast as it goes.
    """
    pre, module, device = encoder.preprocessing, encoder.module, encoder.device

    @torch.inference_mode()
    def run(_=None) -> float:
        x = torch.rand(encoder.rows, pre.channels, pre.size, pre.size, device=device)
        x = x.to(dtype=module.dtype, memory_format=module.layout)
        begun, done = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            for _ in range(1 if device.type == "cpu" else 8):
                module(x)
                done += encoder.rows
            synchronise(device)
        return done / (time.perf_counter() - begun)

    with one_part_per_core([encoder]):
        return run() if encoder.threads is None else sum(encoder.threads.map(run, range(encoder.cores)))


def end_to_end(loaded: LoadedBackbone, device: torch.device, folder: Path, precision: str, out: Path) -> float:
    """Frames per second of `extract` from files to file; loading the network is not counted."""
    out.unlink(missing_ok=True)
    frames = sum(1 for _ in folder.rglob("*.jpg"))
    prepare = engine.prepare_encoders
    begun = 0.0

    def start_clock(*args, **settings):
        nonlocal begun
        encoders = prepare(*args, **settings)
        begun = time.perf_counter()
        return encoders

    with replaced(engine, "prepare_encoders", start_clock), replaced(engine, "load_backbones", lambda *_: given):
        given = {loaded.spec.name: loaded}
        extract(backbones=["given"], videos=[folder], out=out, precision=precision, device=str(device))
        return frames / (time.perf_counter() - begun)


def stages_table(scratch: Path, *, frames: int) -> None:
    """Rates of the stages that must keep up with a fast device: decode, write, join."""
    folder = make_frames(scratch / "stages", frames, videos=10)
    contents = [path.read_bytes() for path in sorted(folder.rglob("*.jpg"))]
    decode = rate(frames, lambda: [decode_image(data) for data in contents])
    batches = list(engine.load_batches(list_videos([folder]), batch_size=64, workers=1))
    loaded = load(find_spec("iresnet18"), "random")
    info = describe(loaded, dtype="float16", precision="fp32")
    values = np.random.default_rng(0).random((64, info.dim)).astype(np.float16)
    with locked_spool(scratch / "stages.h5") as spool:
        writer = SpoolWriter(spool, {"iresnet18": info})
        write = rate(frames, lambda: [writer.write(batch, {"iresnet18": values}) for batch in batches])
        parts = spool.parts()
        join = rate(frames, lambda: join_files(parts, scratch / "stages.h5"))
        spool.remove()
    print("\n| stage, one thread | frames/s |\n| --- | --- |")
    print(f"| decode a 112x112 JPEG | {decode:,.0f} |")
    print(f"| put {info.dim} float16 features on disk, video by video | {write:,.0f} |")
    print(f"| join the finished videos | {join:,.0f} |", flush=True)


def memory_table(scratch: Path, *, counts: tuple[int, int]) -> None:
    """Peak memory of a whole run over few and over many frames (where the system tells it: Linux)."""
    if not Path("/proc/self/status").exists():
        return
    peaks = []
    for count in counts:
        folder = make_frames(scratch / f"peak{count}", count, videos=3, different=100)
        command = [sys.executable, "-m", "tests.benchmarks.bench_extract", "--peak", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    print("\n| frames | peak memory, MB | of the first |\n| --- | --- | --- |")
    for count, peak in zip(counts, peaks, strict=True):
        print(f"| {count:,} | {peak:.0f} | {peak / peaks[0]:.3f} |", flush=True)


def print_peak(folder: Path) -> None:
    """Extract a folder with a tiny network and print this process's peak memory in MB."""
    network = folder.with_suffix(".yaml")
    network.write_text(TINY)
    extract(
        backbones=[str(network)],
        videos=[folder],
        out=folder.with_suffix(".h5"),
        weights={"tiny": "random"},
        device="cpu",
        precision="fp32",
        batch_size=64,
    )
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(int(line.split()[1]) / 1024)


def make_frames(root: Path, count: int, *, videos: int, different: int = 64) -> Path:
    """`count` face-sized JPEGs over some videos; after the first `different` ones the same files again."""
    rng = np.random.default_rng(0)
    files: list[Path] = []
    for k in range(count):
        folder = root / f"video{k * videos // count}"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{k + 1:06d}.jpg"
        if k < different:
            image = Image.fromarray(rng.integers(0, 256, (14, 14, 3), np.uint8))
            image.resize((112, 112), Image.Resampling.BICUBIC).save(path, quality=90)
            files.append(path)
        else:
            os.link(files[k % different], path)
    return root


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate(count: int, work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return count / (time.perf_counter() - begun)


def hardware(device: torch.device) -> str:
    """The machine in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities"):
        name = torch.cpu.get_capabilities().get("cpu_name", name)
    return f"{name}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads"


def products(device: torch.device, side: int = 2048) -> str:
    """How fast this machine multiplies: what a ratio between two precisions can be at most."""
    found = []
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        a = torch.rand(side, side, device=device, dtype=dtype)
        synchronise(device)
        rates = []
        for _ in range(8):
            begun = time.perf_counter()
            a @ a
            synchronise(device)
            rates.append(2 * side**3 / (time.perf_counter() - begun) / 1e9)
        found.append(f"{max(rates):,.0f} GFLOP/s in {name}")
    return f"matrix products of {side}: {', '.join(found)}"


@contextmanager
def replaced(module, name: str, value) -> Iterator[None]:
    """A module's function, exchanged for a while."""
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


@contextmanager
def quiet() -> Iterator[None]:
    """No progress on standard error."""
    before, sys.stderr = sys.stderr, open(os.devnull, "w")
    try:
        yield
    finally:
        sys.stderr.close()
        sys.stderr = before


if __name__ == "__main__":
    main()
