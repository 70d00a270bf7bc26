"""The layouts of Aff-Wild2's label files, recognised by their header, and the split that file names say.

| file | header | a row |
| --- | --- | --- |
| multi-task (editions 3, 4, 7, 11) | `image,valence,arousal,expression,aus` | path and 15 numbers |
| valence-arousal | `valence,arousal` | 2 numbers |
| expression | the class names, 7 (2020, 2021) or 8 | 1 number |
| action units | the units' names, 8 (2020) or 12 | as many numbers |
| template of a test set | `image_location` before one of the three above | path, then anything |
| list of a test set | none | the name of a video |

The header of files whose rows start with an image path may be missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from abaw_seq.data.folder import video_name
from abaw_seq.tasks import ACTION_UNITS, EXPRESSIONS, LABEL_COLUMNS

MTL_HEADER = ("image", "valence", "arousal", "expression", "aus")
ACTION_UNITS_2020 = ("AU1", "AU2", "AU4", "AU6", "AU12", "AU15", "AU20", "AU25")
IMAGE_NAMES = ("image", "image_location")
TEXT_SUFFIXES = (".txt", ".csv")

_UNIT = re.compile(r"au0?(\d+)")
_VIDEO_NAME = re.compile(r"\w[\w.\-]*")
_IMAGE_PATH = re.compile(r"[^,]+/\d+\.\w+\s*(,.*)?")
_SPLIT_WORDS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SPLIT_FOLDER = re.compile(r"(train(?:ing)?|val(?:id(?:ation)?)?|test)(?:[ _-]set)?(?:[ _-]examples?)?")


@dataclass(frozen=True)
class Layout:
    """How the rows of a file are laid out."""

    task: str
    """which labels: "mtl" (all), "va", "expr" or "au" alone"""
    image: bool
    """True if rows start with an image path"""
    classes: tuple[str, ...] = ()
    """the expressions in the order of their numbers"""
    units: tuple[str, ...] = ()
    """the action units in the order of the header"""

    @property
    def numbers(self) -> int:
        """How many numbers a row has."""
        return {"mtl": 3 + len(self.units), "va": 2, "expr": 1, "au": len(self.units)}[self.task]

    @property
    def columns(self) -> tuple[int | None, ...]:
        """For each number of a row its column in the label array (frames, 15), None where it has none."""
        units = tuple(LABEL_COLUMNS.index(unit) if unit in ACTION_UNITS else None for unit in self.units)
        return {"mtl": (0, 1, 2, *units), "va": (0, 1), "expr": (2,), "au": units}[self.task]


def recognise_header(header: str) -> Layout | None:
    """The layout that a header line stands for; None if it is not one of those above.

    Blanks around the names, their case and commas at the end do not matter.

    >>> recognise_header("valence, arousal")
    Layout(task='va', image=False, classes=(), units=())
    """
    names = [name.strip().lower() for name in header.strip().rstrip(",").split(",")]
    if tuple(names) == MTL_HEADER:
        return Layout("mtl", True, EXPRESSIONS, ACTION_UNITS)
    image = names[0] in IMAGE_NAMES
    names = names[image:]
    if names == ["valence", "arousal"]:
        return Layout("va", image)
    expressions = {name.lower(): name for name in EXPRESSIONS}
    if len(names) > 1 and len(set(names)) == len(names) and all(name in expressions for name in names):
        return Layout("expr", image, classes=tuple(expressions[name] for name in names))
    units = [unit for name in names if (unit := _UNIT.fullmatch(name))]
    if names and len(set(names)) == len(names) == len(units):
        return Layout("au", image, units=tuple(f"AU{unit[1]}" for unit in units))
    return None


def is_video_list(text: str) -> bool:
    """True if each line is the name of a video, as in the lists of the per-task test sets."""
    names = text.split("\n")
    names = [video_name(name.strip().rstrip(",")) for name in names if name.strip()]
    return bool(names) and all(_VIDEO_NAME.fullmatch(name) and name not in (".", "..") for name in names)


def starts_with_image(row: str) -> bool:
    """True if a line starts with an image path, as the first of a multi-task file without a header does."""
    return bool(_IMAGE_PATH.fullmatch(row))


def split_of_file(path: Path, root: Path) -> str | None:
    """The split that a file's name says, or else one of its folders.

    A name with words of two splits says none.

    >>> split_of_file(Path("a/MTL_Challenge_test_set_release.txt"), Path("a"))
    'test'
    """
    words = re.split(r"[^a-z]+", path.stem.lower())
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    if splits:
        return splits.pop() if len(splits) == 1 else None
    return split_of_folder(path, root)


def split_of_folder(path: Path, root: Path) -> str | None:
    """The split of the nearest folder, up to and with `root`, that is named for one.

    >>> split_of_folder(Path("a/VA_Set/Train_Set/426.txt"), Path("a"))
    'train'
    """
    for folder in path.parents:
        if match := _SPLIT_FOLDER.fullmatch(folder.name.lower()):
            return _SPLIT_WORDS[match[1]]
        if folder == root:
            break
    return None
