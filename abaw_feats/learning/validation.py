"""Official scores of a network that sees single frames."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from abaw_feats.backbones import Preprocessing
from abaw_feats.learning.frame_store import FrameStore
from abaw_feats.learning.task_network import TaskNetwork
from abaw_feats.reading.images import normalise
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
    """Official scores of a network on rows of a store, whose images have the size that the network takes.

    labels: (rows of the index, 15), NaN where there is none.
    """
    network.eval()
    predictions: dict[str, list[np.ndarray]] = {}
    scored = []
    for pixels, read in store.batches(rows.split(BATCH)):
        images = normalise(pixels.to(device), preprocessing)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            outputs = network(images)
        for task, values in probabilities(outputs).items():
            predictions.setdefault(task, []).append(values.cpu().numpy())
        scored.append(read)
    joined = {task: np.concatenate(parts) for task, parts in predictions.items()}
    return score(joined, labels[torch.cat(scored)].numpy())
