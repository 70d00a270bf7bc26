"""What a feature file says of how a video was read: attributes of its group, none of which has to be there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(frozen=True)
class SourceRecord:
    """The state of a video's files when its features were computed, and what could not be read of them."""

    KEYS: ClassVar = ("stamp", "content", "incomplete", "unreadable")

    stamp: str = ""
    """A digest of the frame numbers, sizes and times of change of its files; "" if not known."""
    content: str = ""
    """A digest of the frame numbers, sizes and bytes of its files; "" if not known."""
    incomplete: str = ""
    """Why the video ends too early, if it does."""
    unreadable: dict[str, int] = field(default_factory=dict)
    """{why frames could not be read: how many of them}, of the most frequent kinds."""

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> SourceRecord:
        """The record in the attributes of a video's group; what is absent, or of another form, is not known."""
        stamp, content, incomplete, unreadable = (
            value if isinstance(value := attributes.get(key), str) else "" for key in cls.KEYS
        )
        try:
            reasons = json.loads(unreadable) if unreadable else {}
        except ValueError:
            reasons = {}
        if not isinstance(reasons, dict) or not all(type(count) is int for count in reasons.values()):
            reasons = {}
        return cls(stamp, content, incomplete, reasons)

    def to_attributes(self) -> dict[str, str]:
        """What is known, as attributes."""
        texts = {"stamp": self.stamp, "content": self.content, "incomplete": self.incomplete}
        texts["unreadable"] = json.dumps(self.unreadable) if self.unreadable else ""
        return {key: text for key, text in texts.items() if text}
