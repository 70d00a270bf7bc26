"""One epoch of any training program."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor

from abaw_seq.engine.update import Update

LOSS_EVERY = 20


def train_epoch(
    batches: Iterable[tuple[Any, ...]],
    losses_of: Callable[..., Tensor],
    update: Update,
    *,
    rates: Sequence[float],
    advance: Callable[[int, str], None] | None = None,
    label: str = "",
) -> Tensor:
    """Minimise a loss over some batches; the mean losses (losses,), on the device.

    losses_of: a batch's items -> (losses,), the first of which is minimised, the others are for the record.
    rates: the learning rate of each update; there are `update.accumulate` batches to each.
    advance: called with the number of samples of each batch (the length of its last item) and, now and then, the loss:
    nothing else here waits for the device.
    """
    total: Any = 0.0
    count = 0
    for count, batch in enumerate(batches, start=1):
        with update.part():
            losses = losses_of(*batch)
            update.step(losses[0], rates[(count - 1) // update.accumulate])
        losses = losses.detach()
        total = total + losses
        if advance is not None:
            note = f"{label}, loss {float(losses[0]):.4f}" if count % LOSS_EVERY == 1 else ""
            advance(len(batch[-1]), note)
    return total / max(count, 1)
