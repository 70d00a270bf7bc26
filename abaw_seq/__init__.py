"""Multi-task sequence models for affective behaviour analysis on cached features.

    import abaw_seq

    run = abaw_seq.train("abaw4/gru", "feats.h5", run="runs/gru")       # or abaw_seq.Run("runs/gru")
    run.scores["untuned"]["p_mtl"]
    run.predict("new.h5")["video1"].outputs["expression"]               # (frames, 8) probabilities

The names below are the package's public ones. They are imported when they are first used, so that importing the
package is cheap. Messages go to the logger `abaw_seq`; nothing is printed.
"""

from typing import TYPE_CHECKING, Any

from abaw_seq.lazy import lazy_names

if TYPE_CHECKING:
    from abaw_seq.data.annotations import read_annotations as read_annotations
    from abaw_seq.data.foreign_features import open_features as open_features
    from abaw_seq.data.prediction_file import VideoPredictions as VideoPredictions
    from abaw_seq.errors import AbawError as AbawError
    from abaw_seq.errors import UserError as UserError
    from abaw_seq.learn.settings import TrainConfig as TrainConfig
    from abaw_seq.metrics import score as score
    from abaw_seq.results.run import Run as Run
    from abaw_seq.results.run import train as train

    __version__: str

_PLACES = {
    "AbawError": "errors",
    "Run": "results.run",
    "TrainConfig": "learn.settings",
    "UserError": "errors",
    "VideoPredictions": "data.prediction_file",
    "open_features": "data.foreign_features",
    "read_annotations": "data.annotations",
    "score": "metrics",
    "train": "results.run",
}
__all__ = [*_PLACES]  # noqa: PLE0604
_get, __dir__ = lazy_names(__name__, _PLACES)


def __getattr__(name: str) -> Any:
    if name != "__version__":
        return _get(name)
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("abaw")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0+unknown"
