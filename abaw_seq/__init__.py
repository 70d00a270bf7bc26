"""Multi-task sequence models for affective behaviour analysis on cached features."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("abaw")
except PackageNotFoundError:  # run from a checkout that is not installed
    __version__ = "0+unknown"
