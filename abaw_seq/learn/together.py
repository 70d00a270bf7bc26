"""Training many models of one shape at once: the epochs of `train`, each member's own, computed in a stack.

Only the computation is shared (`abaw_seq.models.members`). Each member has its own windows, random numbers, losses,
optimiser, learning rates, best epoch and run folder, which is what `train` alone would leave. So a stack has nothing
to store: killed at any time, its members go on from their own last whole epochs, together or alone. A member whose
training is over leaves the stack.

In step k of an epoch every member that has a k-th batch takes it. Those whose windows are equally long compute
together; a member with fewer windows in its batch is padded with windows without labels, from which it learns nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from abaw_seq import config as configs
from abaw_seq.engine.device import full_speed
from abaw_seq.learn.losses import outputs_of, task_losses
from abaw_seq.learn.member import Epoch, Member, TrainResult
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.learn.train import augmented, ground_truth_share, train_member
from abaw_seq.models.encoders import State
from abaw_seq.models.frameworks import MultiTaskModel
from abaw_seq.models.inference import CarriedState
from abaw_seq.models.members import Stack, can_stack
from abaw_seq.terminal import progress


def stack_key(config: TrainConfig, device: torch.device) -> str | None:
    """What configs must have in common to train in one stack; None for a config that trains alone.

    They may differ in seed, learning rates, number of epochs, patience and what else concerns a member by itself.
    """
    carries_both_ways = config.windows.carry and config.model.encoder.bidirectional
    more = config.model.gt_decay or config.teacher is not None  # what depends on the epoch, or on a teacher
    alone = config.precision != "fp32" or carries_both_ways or more or config.joint is not None
    if alone or not can_stack(config.model, device):
        return None
    alike = TrainConfig()
    own = ("seed", "optim", "epochs", "patience", "keep_best_per_task", "weighting", "nearest_label")
    return configs.dump(dataclasses.replace(config, **{name: getattr(alike, name) for name in own}))


def member_bytes(config: TrainConfig, dim: int) -> int:
    """Memory that a member takes while it trains on features of `dim`, roughly.

    Its weights, their stacked copy, gradient, running average and the optimiser's two; and a batch of the features and
    of what the layers keep for the backward pass.
    """
    widths = {task: outputs_of(task, config.loss) for task in config.tasks}
    with torch.device("meta"):
        model = MultiTaskModel(dim, config.model, widths)
    encoder, frames = config.model.encoder, config.windows.batch * config.windows.length
    layers = (encoder.layers - config.model.task_layers) + config.model.task_layers * len(config.tasks)
    kept = layers * (40 * encoder.dim + encoder.ffn + encoder.heads * config.windows.length)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return 4 * (6 * parameters + frames * (6 * dim + kept + len(config.tasks) * sum(config.model.head) * 4))


def train_together(members: Sequence[Member]) -> list[TrainResult]:
    """Train models of one `stack_key` at once, and leave each one's best epoch in its run folder.

    Raises AbawError, as `train` does, if the loss of one is not finite.
    """
    device = members[0].device
    name = f"{members[0].run.name} and {len(members) - 1} more" if len(members) > 1 else members[0].run.name
    bar = progress(f"train {name}", sum(member.left for member in members), "epochs")
    with bar as advance, full_speed(device, members[0].model):
        while going := [member for member in members if not member.is_over]:
            epochs = [member.next_epoch() for member in going]
            means = _train_epoch(going, epochs) if len(going) > 1 else [train_member(going[0], epochs[0])]
            trained = time.monotonic() - epochs[0].started
            for member, epoch, mean in zip(going, epochs, means, strict=True):
                # A member's time is its share of the stack's, and its own validation.
                own = dataclasses.replace(epoch, started=time.monotonic() - trained / len(going))
                member.end_epoch(own, mean)
                advance(1, str(member.best) if member.best.scores else "")
    return [member.result() for member in members]


@dataclass(frozen=True)
class _Step:
    """What members with equally long windows compute together."""

    who: list[int]
    """The members, as numbers in the stack."""
    number: int
    """Which of their batches it is."""
    rows: Tensor
    """(members x batch, time)"""
    counts: list[int]
    """Windows of each member; padding follows them."""
    used: Tensor
    """(members x batch,): frames of each window, 0 of padding."""


def _train_epoch(members: list[Member], epochs: list[Epoch]) -> list[Tensor]:
    """Train every member for an epoch of its own; their mean losses (1 + tasks,)."""
    models = [member.model for member in members if isinstance(member.model, MultiTaskModel)]  # all: see stack_key
    stack = Stack(models)
    generators = [
        torch.Generator(member.device).manual_seed(epoch.seed) for member, epoch in zip(members, epochs, strict=True)
    ]
    carried = [CarriedState() for _ in members]
    balance = {name: torch.stack([m.balance[name] for m in members]) for name in members[0].balance}
    totals: list[Any] = [0.0] * len(members)
    try:
        gathered = members[0].corpus.gathered((step, step.rows) for step in _steps(epochs))
        for step, features in gathered:
            own = [generators[k] for k in step.who]
            with stack.computing(step.who, step.counts, own):
                losses = _losses(stack, members, epochs, step, features, carried, own, balance)
            torch.stack([one[0] for one in losses]).sum().backward()
            stack.hand_out_gradients(step.who)
            for k, one in zip(step.who, losses, strict=True):
                members[k].update.move(epochs[k].rates[step.number])
                totals[k] = totals[k] + one.detach()
    finally:
        stack.release()
    return [total / len(epoch.batches) for total, epoch in zip(totals, epochs, strict=True)]


def _steps(epochs: list[Epoch]) -> Iterator[_Step]:
    for number in range(max(len(epoch.batches) for epoch in epochs)):
        alive = [k for k, epoch in enumerate(epochs) if number < len(epoch.batches)]
        batches = {k: epochs[k].batches[number] for k in alive}
        for time_steps in sorted({batch.rows.shape[1] for batch in batches.values()}):
            who = [k for k in alive if batches[k].rows.shape[1] == time_steps]
            own = [batches[k].rows for k in who]
            counts = [len(rows) for rows in own]
            rows = torch.cat([_padded(rows, max(counts)) for rows in own])
            used = [torch.zeros(max(counts), dtype=torch.long, device=rows.device) for _ in who]
            for frames, k, count in zip(used, who, counts, strict=True):
                given = batches[k].used
                frames[:count] = time_steps if given is None else given
            yield _Step(who, number, rows, counts, torch.cat(used))


def _padded(rows: Tensor, count: int) -> Tensor:
    """Windows (batch, time), the last one repeated until there are `count`."""
    return rows if len(rows) == count else torch.cat([rows, rows[-1:].expand(count - len(rows), -1)])


def _losses(
    stack: Stack,
    members: list[Member],
    epochs: list[Epoch],
    step: _Step,
    features: Tensor,
    carried: list[CarriedState],
    generators: list[torch.Generator],
    balance: dict[str, Tensor],
) -> list[Tensor]:
    """For each member of a step the weighted loss, then that of each task: (1 + tasks,)."""
    config, network = members[0].config, stack.network
    size = len(features) // len(step.who)
    batches = [epochs[k].batches[step.number] for k in step.who]
    labels = torch.cat(
        [
            members[k].corpus.gather_labels(rows, used)
            for k, rows, used in zip(step.who, step.rows.split(size), step.used.split(size), strict=True)
        ]
    )
    features = _augmented(features, step, members, generators)
    state = _joined([
        carried[k].take(batch.lanes, batch.fresh) if batch.lanes is not None and batch.fresh is not None else None
        for k, batch in zip(step.who, batches, strict=True)
    ], size)  # fmt: skip
    share = ground_truth_share(config, epochs[0].number)
    predicted = network(features, state, None, labels=labels, gt_rate=share)
    for place, (k, batch) in enumerate(zip(step.who, batches, strict=True)):
        if batch.lanes is not None:
            own = slice(place * size, place * size + len(batch.lanes))
            carried[k].put(
                batch.lanes, {name: tuple(p[:, own] for p in parts) for name, parts in predicted.state.items()}
            )
    outputs = {task: stack.present.unfold(values) for task, values in predicted.outputs.items()}
    weights = {name: stack.present.of(values) for name, values in balance.items()}

    def of_one(outputs: dict[str, Tensor], labels: Tensor, weights: dict[str, Tensor]) -> Tensor:
        by_task = task_losses(outputs, labels, config.loss, **weights)
        return torch.stack([by_task[task] for task in config.tasks])

    by_member = torch.vmap(of_one)(outputs, stack.present.unfold(labels), weights)
    return [
        torch.cat([members[k].weighting(losses)[None], losses])
        for k, losses in zip(step.who, by_member.unbind(0), strict=True)
    ]


def _augmented(features: Tensor, step: _Step, members: list[Member], generators: list[torch.Generator]) -> Tensor:
    """Features (members x batch, time, dim) with each member's training noise."""
    augment = members[0].config.augment
    if not (augment.noise or augment.time_mask or augment.feature_dropout):
        return features
    result = torch.zeros(features.shape, device=features.device)
    size = len(features) // len(step.who)
    for place, (k, count, generator) in enumerate(zip(step.who, step.counts, generators, strict=True)):
        own = slice(place * size, place * size + count)
        result[own] = augmented(features[own], members[k].model.standardise, augment, generator)
    return result


def _joined(states: list[dict[str, State] | None], size: int) -> dict[str, State] | None:
    """The members' carried states, each part (layers, batch, dim), as one (layers, members x batch, dim)."""
    known = next((state for state in states if state), None)
    if known is None:
        return None
    return {
        name: tuple(
            torch.cat([_at_size(state[name][part] if state else None, like, size) for state in states], 1)
            for part, like in enumerate(parts)
        )
        for name, parts in known.items()
    }


def _at_size(part: Tensor | None, like: Tensor, size: int) -> Tensor:
    whole = like.new_zeros(like.shape[0], size, like.shape[2])
    if part is not None:
        whole[:, : part.shape[1]] = part
    return whole
