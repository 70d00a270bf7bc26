"""Generated face videos in Aff-Wild2's layout: what `abaw-feats demo` writes."""

from abaw_feats.demo.dataset import DemoSummary, generate_demo
from abaw_feats.demo.nuisance import Nuisance

__all__ = ["DemoSummary", "Nuisance", "generate_demo"]
