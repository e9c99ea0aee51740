# SPDX-License-Identifier: Apache-2.0
"""Strike, show that it happened, hold, heal, wait until all is well: one fault, or a schedule of several."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

from faults import checker, valkey_clients
from faults.breakage import Wound
from faults.catalogue import FAULTS, Fault, Until
from faults.history import Event, History
from faults.lab import Lab, LabError, await_true
from faults.report import Trial
from faults.schedule import Step, acts

BY_NAME = {fault.name: fault for fault in FAULTS}
WAYS = ("pool", "balancers")
# Of those that wait for no replica: while a shard's only replica leads, there is nobody to wait for.
SHARDS = tuple(f"valkey plain {shard}" for shard in range(valkey_clients.SHARDS))
# How long a strike looks for what it hits: in a schedule there may be no primary at the moment.
PATIENCE = 8.0
# How long a schedule may take to be well again: hosts, leases and elections may follow each other.
SCHEDULE_LIMIT = 180.0


def attempt(lab: Lab, fault: Fault, history: History) -> Trial:
    """Run one fault alone. What goes wrong is in the trial's problem."""
    trial = Trial(fault.name, "", time.monotonic())
    wound = _strike(lab, trial)
    if wound:
        try:
            _struck(trial, wound, history)
            _hold(fault, trial, history)
        except LabError as error:
            trial.problem = f"did not happen: {error}"
        finally:
            _heal(trial, wound)
    else:
        trial.problem = f"did not happen: {trial.skipped}"
    trial.healed = time.monotonic()
    history.events.append(Event(trial.healed, "heal", fault.name, trial.target))
    _recover(lab, [trial], history, fault.limit)
    return trial


def _struck(trial: Trial, wound: Wound, history: History) -> None:
    trial.start = wound.begun or trial.start
    trial.target = wound.target
    history.events.append(Event(trial.start, "strike", trial.fault, trial.target))
    await_true(wound.happened, 10, 0.05)
    trial.happened = True


def _heal(trial: Trial, wound: Wound) -> None:
    try:
        wound.heal()
    except LabError as error:
        trial.problem = f"{trial.problem} not healed: {error}".strip()


def _recover(lab: Lab, trials: Sequence[Trial], history: History, limit: float) -> None:
    """Wait for full health, and until clients write by every way. What was missing, and since when, is in the trials."""
    begin, sick = time.monotonic(), ""

    def problem() -> str:
        nonlocal sick
        found = lab.sickness(spread=False)
        if not found and not checker.served(history.operations, WAYS, begin):
            found = "clients do not write by every way"
        if found and found != sick:
            for trial in trials:
                trial.recovering.append((round(time.monotonic() - begin, 1), found))
        sick = found
        return found

    try:
        await_true(problem, limit, pause=0.5)
    except LabError as error:
        for trial in trials:
            trial.problem = f"{trial.problem} did not come back: {error}".strip()
        return
    for trial in trials:
        trial.healthy = time.monotonic()
        history.events.append(Event(trial.healthy, "healthy", trial.fault, trial.target))


def _hold(fault: Fault, trial: Trial, history: History) -> None:
    """Let a fault last until what it waits for was seen, at most for its time."""
    since = time.monotonic()
    while (left := since + fault.hold - time.monotonic()) > 0:
        if fault.until is not Until.TIME and _over(fault, trial, history, since):
            time.sleep(min(1.0, left))
            return
        time.sleep(min(0.2, left))


def _over(fault: Fault, trial: Trial, history: History, since: float) -> bool:
    if fault.until is Until.MOVED:
        moved = checker.taken_over(history.probes, trial.target, since)
        if moved is None:
            return False
        since = moved
    return checker.served(history.operations, SHARDS if fault.until is Until.KEYS else WAYS, since)


def play(lab: Lab, steps: Sequence[Step], history: History) -> list[Trial]:
    """Run a schedule: faults that overlap as it says, then wait until all is well."""
    begin = time.monotonic()
    trials: dict[Step, Trial] = {}
    wounds: dict[Step, Wound] = {}
    for at, act, step in acts(steps):
        time.sleep(max(0.0, begin + at - time.monotonic()))
        if act == "strike":
            trials[step] = Trial(step.fault, "", time.monotonic())
            wound = _strike(lab, trials[step])
            if wound:
                wounds[step] = wound
                _see(trials[step], wound, history)
        elif step in wounds:
            _try_heal(trials[step], wounds[step], history)
    for step, wound in wounds.items():
        # What could not be healed while something else was broken can be now.
        if not trials[step].healed:
            _heal(trials[step], wound)
            trials[step].healed = time.monotonic()
    found = list(trials.values())
    for trial in found:
        trial.healed = trial.healed or time.monotonic()
    _recover(lab, found, history, SCHEDULE_LIMIT)
    return found


def _strike(lab: Lab, trial: Trial) -> Wound | None:
    """Strike as soon as there is what it hits; None, and the reason in the trial, where nothing is."""
    fault, end = BY_NAME[trial.fault], time.monotonic() + PATIENCE
    while True:
        trial.start = time.monotonic()
        try:
            return fault.strike(lab)
        except LabError as error:
            if time.monotonic() > end:
                trial.skipped = str(error)
                return None
            time.sleep(0.5)


def _see(trial: Trial, wound: Wound, history: History) -> None:
    """See that it happened. In a schedule it may be hidden by another fault, which is told, and no failure."""
    try:
        _struck(trial, wound, history)
    except LabError as error:
        trial.skipped = f"did not show: {error}"


def _try_heal(trial: Trial, wound: Wound, history: History) -> None:
    try:
        wound.heal()
    except LabError:
        return
    trial.healed = time.monotonic()
    history.events.append(Event(trial.healed, "heal", trial.fault, trial.target))


def count(trial: Trial, history: History) -> None:
    """Fill in what clients saw of a trial."""
    end = (trial.healthy or time.monotonic()) + 1.0
    recent = [o for o in history.operations if o.end > trial.start - 5.0]
    for route in sorted({o.route for o in recent}):
        mine = [o for o in recent if o.route == route]
        trial.gaps[route] = checker.longest_gap(mine, trial.start, end)
        trial.away[route] = sum(o.seconds for o in checker.outages(mine) if o.end > trial.start and o.start < end)
    during = [o for o in recent if trial.start <= o.end <= end]
    failed = [o for o in during if o.problem]
    trial.errors, trial.failed = len(failed), dict(Counter(o.route for o in failed))
    trial.states = dict(sorted(checker.states(during).items()))
