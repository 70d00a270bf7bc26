"""Writes the demo set: faces, annotations and a contact sheet, in the layout of Aff-Wild2's MTL release."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from abaw_feats.demo.contact_sheet import draw_contact_sheet
from abaw_feats.demo.nuisance import Nuisance
from abaw_feats.demo.plan import plan_videos
from abaw_feats.demo.states import Course, play
from abaw_feats.demo.video import render_video
from abaw_seq.data.annotations import write_mtl_annotations
from abaw_seq.errors import UserError
from abaw_seq.files import remove_leftovers, whole_folder
from abaw_seq.signals import deaf_children, end_with_parent
from abaw_seq.tasks import EXPRESSIONS, SPLITS

FACES = "cropped_aligned"
FILES = {"train": "training_set_annotations.txt", "val": "validation_set_annotations.txt"}
TEST_LIST = "MTL_Challenge_test_set_release.txt"
CONTACT_SHEET = "contact_sheet.png"
RECIPE = "demo.json"  # written last: a folder that holds it is finished
VERSION = 1  # of the generator: raise it when the same seed gives other pictures or labels
REPEATED = 0.0067  # share of the annotation lines that occur twice
TEST_SHARE = 0.015  # of the frames
POOL_FROM = 600  # with fewer frames, starting several processes takes longer than it saves
Advance = Callable[..., None]


@dataclass(frozen=True)
class DemoSummary:
    """What a demo set consists of."""

    videos: dict[str, int]
    """Videos by split."""
    frames: dict[str, int]
    """Frames by split."""
    expressions: dict[str, dict[str, int]]
    """Frames labelled with each expression, by split."""
    contact_sheet: Path


def generate_demo(
    out: Path,
    *,
    count: int = 32,
    total_frames: int = 8000,
    seed: int = 0,
    advance: Advance | None = None,
    nuisance: Nuisance | None = None,
    processes: int | None = None,
) -> DemoSummary:
    """Write a demo set of `count` labelled videos to the folder `out`, which appears when it is complete.

    A quarter of the videos are for validation; one test video without labels is added for every 16 videos.
    `total_frames` counts the frames of all of them. The same arguments give the same files, whatever the number of
    processes. `advance(frames, note=name)` is called after every video. A folder with the same set is left as it is,
    one with another demo set is replaced.

    Raises UserError for too few videos or frames, or if `out` exists and is not a finished demo set.
    """
    out = Path(out)
    if count < 2:
        raise UserError(f"{count} videos make no demo set: at least 2 are needed, to train and to validate on")
    if total_frames < 12 * count:
        raise UserError(f"{total_frames} frames make no demo set: {count} videos need at least {12 * count}")
    nuisance = nuisance or Nuisance()
    recipe = {"version": VERSION, "videos": count, "frames": total_frames, "seed": seed, "nuisance": asdict(nuisance)}
    if _finished(out, recipe):
        return _summary(out)
    courses = draw_courses(count, total_frames, seed)
    remove_leftovers(out)
    with whole_folder(out) as folder:
        _render_all(folder, courses, nuisance, seed, advance, processes)
        (folder / "annotations").mkdir()
        _write_labels(folder / "annotations", courses, np.random.default_rng([seed, 3]))
        draw_contact_sheet(folder / FACES, folder / CONTACT_SHEET, courses, nuisance, seed)
        recipe["summary"] = _count(courses)
        (folder / RECIPE).write_text(json.dumps(recipe, indent=1) + "\n")
    return _summary(out)


def draw_courses(count: int, total_frames: int, seed: int) -> list[Course]:
    """What happens in each video, in the order train, val, test."""
    rng = np.random.default_rng([seed, 0])
    val = max(1, round(count / 4))
    test = -(-count // 16)
    test_frames = max(8 * test, round(TEST_SHARE * total_frames))
    plans = plan_videos(rng, {"train": count - val, "val": val, "test": test}, total_frames, test_frames)
    return [course for split in SPLITS for course in play(rng, [plan for plan in plans if plan.split == split])]


def _render_all(
    folder: Path,
    courses: list[Course],
    nuisance: Nuisance,
    seed: int,
    advance: Advance | None,
    processes: int | None,
) -> None:
    advance = advance or (lambda frames, note: None)
    jobs = [(folder / FACES, course, nuisance, seed) for course in courses]
    rows = sum(len(course.frames) for course in courses)
    count = min(processes or len(os.sched_getaffinity(0)), len(jobs))
    if count == 1 or (processes is None and rows < POOL_FROM):
        for job in jobs:
            advance(render_video(*job), note=job[1].plan.name)
        return
    jobs.sort(key=lambda job: -len(job[1].frames))  # long videos first, so that all processes end together
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=end_with_parent) as pool:
        with deaf_children():
            running = {pool.submit(render_video, *job): job[1].plan.name for job in jobs}
        try:
            for done in as_completed(running):
                advance(done.result(), note=running[done])
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_labels(folder: Path, courses: list[Course], rng: np.random.Generator) -> None:
    for split, name in FILES.items():
        rows = [
            row
            for course in courses
            if course.plan.split == split
            for row in zip(course.images, course.labels(), strict=True)
        ]
        repeated = set(rng.choice(len(rows), max(2, round(REPEATED * len(rows))), replace=False).tolist())
        write_mtl_annotations(folder / name, (row for k, row in enumerate(rows) for _ in range(1 + (k in repeated))))
    tested = [image for course in courses if course.plan.split == "test" for image in course.images]
    lines = ["image,valence,arousal,expression,aus", *tested]
    (folder / TEST_LIST).write_text("\n".join(lines) + "\n")


def _count(courses: list[Course]) -> dict[str, dict[str, Any]]:
    """Videos, frames and frames labelled with each expression, by split."""
    splits = {split: [course for course in courses if course.plan.split == split] for split in SPLITS}
    labelled = {
        split: np.concatenate([course.expression[~course.missing[:, 1]] for course in splits[split]]) for split in FILES
    }
    counts = {split: np.bincount(classes, minlength=len(EXPRESSIONS)).tolist() for split, classes in labelled.items()}
    return {
        "videos": {split: len(own) for split, own in splits.items()},
        "frames": {split: sum(len(course.frames) for course in own) for split, own in splits.items()},
        "expressions": {split: dict(zip(EXPRESSIONS, numbers, strict=True)) for split, numbers in counts.items()},
    }


def _finished(out: Path, recipe: dict) -> bool:
    """Whether this set is in `out` already; a UserError if something else than a demo set is."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not (out / RECIPE).is_file():
        raise UserError(f"{out}: exists and is not a finished demo set; name another folder or remove it")
    stored = json.loads((out / RECIPE).read_text())
    return {key: stored.get(key) for key in recipe} == recipe


def _summary(out: Path) -> DemoSummary:
    counts = json.loads((out / RECIPE).read_text())["summary"]
    return DemoSummary(counts["videos"], counts["frames"], counts["expressions"], out / CONTACT_SHEET)
