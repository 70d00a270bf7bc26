"""Official scores of a network that sees single frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from abaw_feats.backbones import Preprocessing
from abaw_feats.learning.frame_store import FrameStore
from abaw_feats.learning.task_network import TaskNetwork
from abaw_feats.reading.images import preprocess
from abaw_seq.metrics import score
from abaw_seq.models.outputs import probabilities

BATCH = 64


@torch.no_grad()
def validate(
    network: TaskNetwork,
    store: FrameStore,
    rows: Tensor,
    *,
    labels: Tensor,
    preprocessing: Preprocessing,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    """Official scores of a network on rows of a store.

    labels: (len(store), 15), NaN where there is none. Images are preprocessed as in extraction.
    """
    network.eval()
    found: dict[str, list[np.ndarray]] = {}
    kept = []
    for pixels, at in store.batches(rows.split(BATCH)):
        images = preprocess(pixels.to(device), preprocessing)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            outputs = network(images)
        for task, values in probabilities(outputs).items():
            found.setdefault(task, []).append(values.cpu().numpy())
        kept.append(at)
    predicted = {task: np.concatenate(parts) for task, parts in found.items()}
    return score(predicted, labels[torch.cat(kept)].numpy())
