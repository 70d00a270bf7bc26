"""What counts in a folder, for frames, videos, annotations and features alike.

Hidden entries, and what operating systems, network disks and editors leave behind, count for nothing, at any
level. A folder is a folder whatever its name looks like.
"""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

DROPPINGS = frozenset(
    {
        "__macosx", "icon\r", "network trash folder", "temporary items", "thevolumesettingsfolder",
        "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "system volume information",
        "lost+found", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot",
        "__pycache__",
    }
)  # fmt: skip
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Folder:
    """The entries of a folder that count, by name."""

    path: Path
    folders: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    dangling: list[str] = field(default_factory=list)
    """Links to what does not exist."""


def is_dropping(name: str) -> bool:
    """True for the name of a file or folder that is hidden or left behind by a system, a network disk or an editor.

    >>> is_dropping("._00001.jpg"), is_dropping("@eaDir"), is_dropping("00001.jpg")
    (True, True, False)
    """
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in DROPPINGS


def list_folder(path: str | os.PathLike[str]) -> Folder:
    """List a folder, which may be a link to one; pipes and devices are left out."""
    listing = Folder(Path(path))
    with os.scandir(path) as entries:
        for entry in entries:
            if is_dropping(entry.name):
                continue
            if entry.is_dir():
                listing.folders.append(entry.name)
            elif entry.is_file():
                listing.files.append(entry.name)
            elif entry.is_symlink():
                listing.dangling.append(entry.name)
    for names in (listing.folders, listing.files, listing.dangling):
        names.sort()
    return listing


def walk(root: str | os.PathLike[str]) -> Iterator[Folder]:
    """List a folder and all folders below it, sorted by name, through links too; a link back up is not followed."""
    yield from _walk(Path(root), ())


def _walk(path: Path, above: tuple[str, ...]) -> Iterator[Folder]:
    here = os.path.realpath(path)
    if here in above:
        return
    listing = list_folder(path)
    yield listing
    for name in listing.folders:
        yield from _walk(path / name, (*above, here))


def has_suffix(name: str, suffixes: tuple[str, ...]) -> bool:
    """Whether a file name ends in one of the suffixes (".jpg"), in capitals or not."""
    return os.path.splitext(name)[1].lower() in suffixes


def video_name(text: str) -> str:
    """The one form (Unicode NFC) in which names of videos are compared, whatever system wrote them."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def on_disk(path: Path) -> Path:
    """The path in the Unicode form in which it exists; unchanged if it exists in none."""
    forms = (Path(unicodedata.normalize(form, str(path))) for form in ("NFC", "NFD"))
    return path if path.exists() else next((other for other in forms if other.exists()), path)


def log_passed_over(paths: Sequence[Path], what: str) -> None:
    """Log in one line the entries, if any, that were passed over because they are not `what`."""
    if paths:
        log.warning(f"{len(paths)} entries passed over, not {what}: {a_few(paths)}")


def a_few(names: Sequence[object]) -> str:
    """The first names, and how many more there are.

    >>> a_few(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = len(names) - NAMES_SHOWN
    return ", ".join(map(str, names[:NAMES_SHOWN])) + (f" and {more} more" if more > 0 else "")
