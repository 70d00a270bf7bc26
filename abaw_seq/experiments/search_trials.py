"""The trials of a search as one machine sees them: which comes next, how it is trained, what is recorded of it."""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from abaw_seq import config as configs
from abaw_seq.engine.best import selection_criterion
from abaw_seq.errors import AbawError, UserError
from abaw_seq.experiments.search_config import SearchConfig
from abaw_seq.experiments.search_space import Range, changes, given_sampler
from abaw_seq.experiments.search_worker import Job, Worker
from abaw_seq.learn.settings import TrainConfig
from abaw_seq.run_folder import TRIALS

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)

MOST_DEATHS = 5
POLL_SECONDS = 0.2
# A trial in a shared study whose machine was not heard of for so long is taken over by another one.
ALIVE_SECONDS, STALE_SECONDS, CLAIM_SECONDS = 10.0, 60.0, 3.0


class Crew:
    """The worker processes of this machine."""

    def __init__(self, hire: Callable[[], Worker]):
        self._hire, self._lock, self._closed = hire, threading.Lock(), False
        self._workers: list[Worker] = []

    def hire(self) -> Worker:
        """A new worker; EOFError once the crew is closed."""
        with self._lock:
            if self._closed:
                raise EOFError("closed")
            self._workers.append(self._hire())
            return self._workers[-1]

    def close(self) -> None:
        """End all workers."""
        with self._lock:
            self._closed = True
            for worker in self._workers:
                worker.close()
            self._workers.clear()


class Trials:
    """Hands out the trials of a study to the threads of this machine, and records what becomes of them."""

    def __init__(self, config: SearchConfig, base: Path, run: Path, study: optuna.Study, *, shared: bool):
        self.config, self.base, self.run, self.study, self.shared = config, base, run, study, shared
        self.proposals = config.proposals
        self.stopped = threading.Event()
        self._me, self._lock = uuid.uuid4().hex, threading.Lock()
        self._values: dict[int, dict[str, Any]] = {}
        self._mine: dict[int, optuna.Trial] = {}
        self._end = time.monotonic() + config.hours * 3600 if config.hours else float("inf")
        # The journal's run folder belongs to this process alone: whatever is unfinished there was interrupted.
        self._interrupted = [] if shared else self._unfinished()
        study.sampler = given_sampler(self._values.__getitem__)

    def check_space(self) -> None:
        """UserError where the training config refuses a setting whatever its value is."""
        for key, values in self.proposals.space.items():
            tried = values.choice or [x for ends in (values.int, values.float, values.log) for x in ends or ()]
            refusals = []
            for value in tried:
                try:
                    self._settings([f"{key}={json.dumps(value)}"])
                except UserError as error:
                    refusals.append(error)
            if len(refusals) == len(tried):
                raise UserError(f"space: {refusals[0]}")

    def remaining(self) -> int:
        """How many trials are not finished."""
        trials = self.study.get_trials(deepcopy=False)
        return max(self.config.trials - sum(trial.state.is_finished() for trial in trials), 0)

    def work(self, crew: Crew, advance: Callable[..., None]) -> None:
        """Run one trial after the other until there is none left."""
        worker: Worker | None = None
        while (trial := self._next()) is not None:
            for _ in range(MOST_DEATHS):
                try:
                    worker = worker or crew.hire()
                    self._run(trial, worker)
                    break
                except EOFError:
                    worker = None
                    if self.stopped.is_set():
                        return
                    log.warning(f"trial {trial.number}: its worker died; another one goes on with it")
            else:
                self._end_trial(trial, error=f"its worker died {MOST_DEATHS} times")
            self._mine.pop(trial.number, None)
            advance(1, self._best())

    @contextmanager
    def kept_alive(self) -> Iterator[None]:
        """Within it the other machines of a shared study see that this machine's trials are alive."""
        over = threading.Event()

        def tell() -> None:
            while not over.wait(ALIVE_SECONDS):
                for trial in list(self._mine.values()):
                    self._say_alive(trial)

        thread = threading.Thread(target=tell, daemon=True)
        if self.shared:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if self.shared:
                thread.join()

    def _next(self) -> optuna.Trial | None:
        """The trial that a free worker runs: an interrupted one, else a new one; None if there is none left."""
        while not self.stopped.is_set() and time.monotonic() < self._end:
            with self._lock:
                trials = self.study.get_trials(deepcopy=False)
                trial = self._taken_over(trials) or self._new(trials)
                if trial is not None:
                    self._mine[trial.number] = trial
            if trial is not None:
                return self._with_values(trial)
            unfinished = any(not trial.state.is_finished() for trial in trials)
            if len(trials) >= self.config.trials and not (self.shared and unfinished):
                return None
            self.stopped.wait(POLL_SECONDS)
        return None

    def _taken_over(self, trials: list[Any]) -> optuna.Trial | None:
        """A trial whose process was killed."""
        import optuna

        if self._interrupted:
            return optuna.Trial(self.study, self._interrupted.pop(0)._trial_id)
        for stored in trials if self.shared else ():
            alive = stored.user_attrs.get("alive") or {"at": stored.datetime_start.timestamp()}
            if stored.state.is_finished() or stored.number in self._mine or time.time() - alive["at"] < STALE_SECONDS:
                continue
            trial = optuna.Trial(self.study, stored._trial_id)
            self._say_alive(trial)
            time.sleep(CLAIM_SECONDS)  # of several machines that claim it now, the last to write has it
            if trial.user_attrs["alive"]["by"] == self._me:
                return trial
        return None

    def _new(self, trials: list[Any]) -> optuna.Trial | None:
        """A new trial, once the generations before its own are finished."""
        if len(trials) >= self.config.trials or not self._is_ready(len(trials), trials):
            return None
        trial = self.study.ask()
        if self.shared:
            self._say_alive(trial)
        return trial

    def _is_ready(self, number: int, trials: list[Any]) -> bool:
        return all(trial.state.is_finished() for trial in self.proposals.earlier(number, trials))

    def _with_values(self, trial: optuna.Trial) -> optuna.Trial:
        """The trial with its values, which are the same for its number whoever asks."""
        while not self._is_ready(trial.number, trials := self.study.get_trials(deepcopy=False)):
            self.stopped.wait(POLL_SECONDS)  # only where another machine has just begun this generation
        self._values[trial.number] = self.proposals.propose(trial.number, trials)
        for key, values in self.proposals.space.items():
            _suggest(trial, key, values)
        return trial

    def _run(self, trial: optuna.Trial, worker: Worker) -> None:
        """Train the models of a trial and record their scores; EOFError if the worker died."""
        stored = self.study.get_trials(deepcopy=False)
        known = stored[trial.number].intermediate_values
        curve = dict(known)

        def go_on(epoch: int, scores: dict[str, Any] | None) -> bool:
            if scores is None or len(self.config.objectives) > 1:
                return True
            curve[epoch] = _score(self.config.objectives[0], scores) or 0.0
            if epoch not in known:  # asked again after an interruption
                trial.report(curve[epoch], epoch)
            if not self.proposals.is_hopeless(trial.number, curve, stored):
                return True
            trial.set_user_attr("pruned", epoch)
            return False

        try:
            settings = self._settings(changes(self.proposals.space, trial.params))
            scores = worker.run(self._job(trial.number, settings), go_on)
        except AbawError as error:
            self._end_trial(trial, error=str(error))
            return
        trial.set_user_attr("scores", {key: _mean([_score(key, each) for each in scores]) for key in SCORES})
        trial.set_user_attr("epochs", [each["epochs"] for each in scores])
        self._end_trial(trial)

    def _end_trial(self, trial: optuna.Trial, error: str = "") -> None:
        import optuna

        state = optuna.trial.TrialState
        if error:
            trial.set_user_attr("error", error)
            self.study.tell(trial, state=state.FAIL, skip_if_finished=True)
        elif "pruned" in trial.user_attrs:
            self.study.tell(trial, state=state.PRUNED, skip_if_finished=True)
        else:
            scores = trial.user_attrs["scores"]
            self.study.tell(trial, [scores[key] or 0.0 for key in self.config.objectives], skip_if_finished=True)

    def _settings(self, changed: list[str]) -> TrainConfig:
        return configs.load(TrainConfig, self.base, (*self.config.set, *changed))

    def _job(self, number: int, settings: TrainConfig) -> Job:
        folder = self.run / TRIALS / f"{number:04d}"
        trainings = []
        for seed in self.config.seeds:
            for fold in range(self.config.folds or 1):
                names = [f"seed{seed}"] * (len(self.config.seeds) > 1) + [f"fold{fold + 1}"] * bool(self.config.folds)
                trainings.append((folder / "-".join(names), seed, fold))
        return Job(configs.to_dict(settings), tuple(trainings), self.config.folds)

    def _unfinished(self) -> list[Any]:
        return [trial for trial in self.study.get_trials(deepcopy=False) if not trial.state.is_finished()]

    def _say_alive(self, trial: optuna.Trial) -> None:
        trial.set_user_attr("alive", {"by": self._me, "at": time.time()})

    def _best(self) -> str:
        values = [t.values for t in self.study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
        if not values or len(self.config.objectives) > 1:
            return ""
        return f"best {max(value[0] for value in values):.3f}"


SCORES = ("p_mtl", "valence", "arousal", "expression", "au")


def _score(key: str, scores: dict[str, Any]) -> float | None:
    """A score of a model, None of a task that it does not learn; P_MTL is the sum of the parts that exist."""
    return selection_criterion(scores) if key == "p_mtl" else scores.get(key)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if len(known) == len(values) else None


def _suggest(trial: optuna.Trial, key: str, values: Range) -> None:
    """Give a setting of the trial its value, which the study's sampler has."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    match values.distribution():
        case CategoricalDistribution(choices=choices):
            trial.suggest_categorical(key, choices)
        case IntDistribution(low=low, high=high, step=step):
            trial.suggest_int(key, low, high, step=step)
        case FloatDistribution(low=low, high=high, step=step, log=log_scale):
            trial.suggest_float(key, low, high, step=step, log=log_scale)
