"""One picture of the demo set: the action units, the expressions, and successive frames."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from abaw_feats.demo.camera import CROP
from abaw_feats.demo.canvas import DENSITY, EXTENT, SIDE
from abaw_feats.demo.identity import FaceState
from abaw_feats.demo.nuisance import Nuisance
from abaw_feats.demo.prototypes import au_probabilities
from abaw_feats.demo.states import ACTIVE, Course
from abaw_feats.demo.video import Video, draw_face
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS

WIDTH, MARGIN = 1480, 28
PAPER, INK, FAINT = (250, 249, 246), (34, 34, 38), (120, 118, 114)
COLOURS = (
    (176, 176, 172), (206, 72, 62), (122, 148, 62), (126, 92, 168),
    (240, 178, 62), (76, 122, 184), (236, 130, 74), (110, 172, 168),
)  # fmt: skip
VALENCE, AROUSAL = (38, 84, 150), (190, 60, 50)
ACTIONS = (
    "inner brow raiser", "outer brow raiser", "brow lowerer", "cheek raiser", "lid tightener",
    "upper lip raiser", "lip corner puller", "corner depressor", "lip tightener", "lip pressor",
    "lips part", "jaw drop",
)  # fmt: skip
PEOPLE = 3  # rows of the table of expressions
STRIPS = 4  # videos shown frame by frame
STRIP = 12  # frames of each


def draw_contact_sheet(faces: Path, target: Path, courses: list[Course], nuisance: Nuisance, seed: int) -> None:
    """Draw the sheet from the written frames under `faces` and save it as a PNG file."""
    videos = [Video(course, nuisance, seed) for course in courses if course.plan.split != "test"]
    frames = sum(len(course.frames) for course in courses)
    sheet = _Sheet(faces)
    sheet.text(MARGIN, MARGIN, "Demo set", 30)
    contents = f"{len(courses)} generated videos, {frames} kept frames, seed {seed}"
    sheet.text(WIDTH - MARGIN, MARGIN + 14, contents, 15, FAINT, "ra")
    sheet.heading("Action units, each alone at full contraction, without disturbance")
    _draw_units(sheet, videos)
    sheet.heading("Expressions: frames of the set, with valence, arousal and the active action units")
    _draw_expressions(sheet, videos)
    sheet.heading("Successive kept frames: the state is slow, every frame is disturbed in another way")
    _draw_strips(sheet, videos)
    sheet.image.crop((0, 0, WIDTH, sheet.top + MARGIN)).save(target)


class _Sheet:
    """A page that grows downwards, from the title's lower edge; `faces`: the folder of the written frames."""

    def __init__(self, faces: Path):
        self.faces = faces
        self.image = Image.new("RGB", (WIDTH, 2600), PAPER)
        self.draw = ImageDraw.Draw(self.image)
        self.top = MARGIN + 52

    def text(
        self, x: float, y: float, text: str, size: int = 12, colour: tuple[int, int, int] = INK, anchor: str = "la"
    ) -> None:
        self.draw.text((x, y), text, colour, ImageFont.load_default(size), anchor)

    def heading(self, text: str) -> None:
        self.draw.line((MARGIN, self.top, WIDTH - MARGIN, self.top), (214, 211, 204))
        self.text(MARGIN, self.top + 10, text, 16)
        self.top += 42

    def paste(self, picture: Image.Image, x: float, y: float, side: int) -> None:
        if picture.width != side:
            picture = picture.resize((side, side), Image.Resampling.LANCZOS)
        self.image.paste(picture, (round(x), round(y)))

    def frame(self, course: Course, k: int, x: float, y: float, side: int) -> None:
        with Image.open(self.faces / course.images[k]) as picture:
            self.paste(picture.convert("RGB"), x, y, side)


def _draw_units(sheet: _Sheet, videos: list[Video]) -> None:
    """Two rows of faces: at rest, then one action unit each."""
    step = (WIDTH - 2 * MARGIN) / (len(ACTION_UNITS) + 1)
    side = round(step) - 8
    for video in _plain_faces(videos):
        for k in range(-1, len(ACTION_UNITS)):
            au = np.zeros(len(ACTION_UNITS), np.float32)
            au[k] = float(k >= 0)
            picture = draw_face(video.scene, FaceState(au=au))
            sheet.paste(_develop(picture * video.camera.gain[:, None, None]), MARGIN + (k + 1) * step, sheet.top, side)
        sheet.top += side + 6
    for k, (name, action) in enumerate(zip(("at rest", *ACTION_UNITS), ("", *ACTIONS), strict=True)):
        sheet.text(MARGIN + k * step, sheet.top, name, 13)
        sheet.text(MARGIN + k * step, sheet.top + 16, action, 11, FAINT)
    sheet.top += 46


def _plain_faces(videos: list[Video]) -> list[Video]:
    """The two people whose faces are easiest to see: no glasses, no beard, no fringe, light skin."""

    def hidden(video: Video) -> float:
        person = video.scene.person
        cover = (person.glasses is not None) + 2 * person.beard + (person.style in ("fringe", "curly"))
        return float(cover - np.mean(person.skin))

    people = {video.plan.person: video for video in videos}
    return sorted(people.values(), key=hidden)[:2]


def _develop(picture: np.ndarray) -> Image.Image:
    """The crop of a drawn picture (3, SIDE, SIDE), undisturbed."""
    pixels = (np.clip(picture, 0, 1) * 255).astype(np.uint8).transpose(1, 2, 0)
    border = (EXTENT - CROP / 2) * DENSITY
    return Image.fromarray(pixels).crop((border, border, SIDE - border, SIDE - border))


def _draw_expressions(sheet: _Sheet, videos: list[Video]) -> None:
    """A column per expression, with its clearest frames of several people."""
    step = (WIDTH - 2 * MARGIN) / len(EXPRESSIONS)
    side = round(step) - 14
    for k, name in enumerate(EXPRESSIONS):
        x = MARGIN + k * step
        sheet.draw.rectangle((x, sheet.top, x + side, sheet.top + 4), COLOURS[k])
        sheet.text(x, sheet.top + 9, name, 15)
        for row, (course, best) in enumerate(_clearest(videos, k)[:PEOPLE]):
            y = sheet.top + 32 + row * (side + 42)
            sheet.frame(course, best, x, y, side)
            units = " ".join(unit[2:] for unit, on in zip(ACTION_UNITS, course.au[best] >= ACTIVE, strict=True) if on)
            sheet.text(x, y + side + 3, f"V {course.valence[best]:+.2f}   A {course.arousal[best]:+.2f}", 12)
            sheet.text(x, y + side + 18, f"AU {units or 'none'}", 12, FAINT)
    sheet.top += 32 + PEOPLE * (side + 42) + 6


def _clearest(videos: list[Video], expression: int) -> list[tuple[Course, int]]:
    """For each person with this expression the least disturbed, most typical frame; the best one first."""
    typical = au_probabilities()[expression]
    best: dict[int, tuple[float, Course, int]] = {}
    for video in videos:
        seen, course = video.seen, video.course
        score = np.abs(seen.au - course.au).sum(1) + np.abs(course.au - typical).sum(1)
        score = score + 3 * (seen.occluded > 0) + 2 * seen.blink + np.abs(seen.turn).sum(1) / 8
        score = score + seen.blur.sum(1) + 9 * np.abs(np.log(seen.gain)).sum(1) + 9 * (seen.quality < 1)
        score = np.where(course.expression == expression, score, np.inf)
        k = int(score.argmin())
        if score[k] < best.get(video.plan.person, (np.inf,))[0]:
            best[video.plan.person] = (float(score[k]), course, k)
    return [(course, k) for _, course, k in sorted(best.values(), key=lambda entry: entry[0])]


def _draw_strips(sheet: _Sheet, videos: list[Video]) -> None:
    """Successive frames of some videos, and below them the course of expression, valence and arousal."""
    step = (WIDTH - 2 * MARGIN) / STRIP
    side = min(CROP, round(step) - 4)
    for place in np.linspace(1, len(videos) - 1, STRIPS).astype(int):
        course = videos[place].course
        rows = len(course.frames)
        first = max(0, rows // 2 - STRIP // 2)
        count = min(STRIP, rows - first)
        sheet.text(MARGIN, sheet.top, f"{course.plan.name}   ({course.plan.split}, {rows} kept frames)", 13)
        sheet.top += 20
        for k in range(first, first + count):
            x = MARGIN + (k - first) * step
            sheet.frame(course, k, x, sheet.top, side)
            name = f"{course.frames[k]:05d}  {EXPRESSIONS[course.expression[k]]}"
            sheet.text(x, sheet.top + side + 2, name, 11, FAINT)
        sheet.top += side + 22
        _draw_course(sheet, course, first, count)
        sheet.top += 84


def _draw_course(sheet: _Sheet, course: Course, first: int, count: int) -> None:
    """Expression, valence and arousal over all frames of a video; a box marks the frames shown above."""
    left, right, top, height = MARGIN + 62, WIDTH - MARGIN, sheet.top, 58
    x = np.linspace(left, right, len(course.frames) + 1)
    middle, reach = top + 14 + (height - 14) / 2, (height - 14) / 2
    for k, expression in enumerate(course.expression):
        sheet.draw.rectangle((x[k], top, x[k + 1], top + 9), COLOURS[expression])
    sheet.draw.line((left, middle, right, middle), (214, 211, 204))
    for name, colour, y in (("valence", VALENCE, middle - 16), ("arousal", AROUSAL, middle + 2)):
        points = np.column_stack((x[:-1], middle - reach * getattr(course, name))).ravel().tolist()
        sheet.draw.line(points, colour, 2, joint="curve")
        sheet.text(MARGIN, y, name, 12, colour)
    sheet.draw.rectangle((x[first], top - 3, x[first + count], top + height + 2), outline=INK)
