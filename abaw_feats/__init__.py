"""Frozen vision encoders over cropped face frames: extraction, pre-training, fine-tuning.

    import abaw_feats

    encoder = abaw_feats.load_encoder("mae", weights="mae.pth")
    encoder(frames)                                                     # uint8 (n, height, width, 3) -> (n, dim)
    abaw_feats.extract(backbones="mae", videos="cropped_aligned", out="feats.h5")

The names below are the package's public ones. They are imported when they are first used, so that importing the
package is cheap. Messages go to the logger `abaw_feats`; nothing is printed.
"""

from typing import TYPE_CHECKING, Any

from abaw_feats.vision_packages import require_feats
from abaw_seq.lazy import lazy_names

if TYPE_CHECKING:
    from abaw_feats.extraction.extract import extract as extract
    from abaw_feats.extraction.frame_encoder import FrameEncoder as FrameEncoder
    from abaw_feats.extraction.frame_encoder import load_encoder as load_encoder

_PLACES = {
    "FrameEncoder": "extraction.frame_encoder",
    "extract": "extraction.extract",
    "load_encoder": "extraction.frame_encoder",
}
__all__ = [*_PLACES]  # noqa: PLE0604
_get, __dir__ = lazy_names(__name__, _PLACES)


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        require_feats()
    return _get(name)
