"""Break the lab while clients write, then check every acknowledged write.

    python -m faults.campaign [--only NAME …] [--random N --seed S] [--runs N] [--output DIRECTORY]

Without options: every fault once, in a fixed order. Exits 1 if a promise was broken or something did not come back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import psycopg
from valkey.exceptions import ValkeyClusterException, ValkeyError

from faults import breakage, checker, postgresql, report, valkey_clients
from faults.breakage import FAULTS, Fault
from faults.history import Event, History, Probe
from faults.lab import Lab, LabError, await_true

SETTLE = 3.0
STALE_LIMIT = 5.0
UNITS = ("etcd", "patroni", "haproxy", "pgbouncer", "keepalived", "valkey-server@*")


class Clients:
    """All clients, in the background of a block."""

    def __init__(self, lab: Lab, history: History) -> None:
        self._lab = lab
        self._history = history
        self._over = threading.Event()
        self._problem: BaseException | None = None

    def __enter__(self) -> Clients:
        self._threads = valkey_clients.all_clients(self._lab, self._history, self._over)
        self._threads += [
            threading.Thread(target=postgresql.prober, args=(machine, self._history, self._over), daemon=True)
            for machine in self._lab.machines.values()
        ]
        self._main = threading.Thread(target=self._run, daemon=True)
        for thread in (*self._threads, self._main):
            thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._over.set()
        self._main.join(postgresql.PATIENCE + 30)
        for thread in self._threads:
            thread.join(30)
        if self._problem:
            raise self._problem

    def _run(self) -> None:
        try:
            asyncio.run(self._clients())
        except BaseException as error:
            self._problem = error

    async def _clients(self) -> None:
        over = asyncio.Event()
        work = asyncio.create_task(postgresql.all_clients(self._lab, self._history, over))
        while not self._over.is_set() and not work.done():
            await asyncio.sleep(0.1)
        over.set()
        await work


def attempt(lab: Lab, fault: Fault, history: History, hold: float | None = None) -> report.Trial:
    """Strike, show that it happened, hold, heal, wait for full health. What goes wrong is in the trial's problem."""
    trial = report.Trial(fault.name, "", time.monotonic())
    wound = None
    try:
        wound = fault.strike(lab)
        trial.target = wound.target
        history.events.append(Event(time.monotonic(), "strike", fault.name, trial.target))
        await_true(wound.happened, 10, 0.05)
        time.sleep(fault.hold if hold is None else hold)
    except LabError as error:
        trial.problem = f"did not happen: {error}"
    finally:
        if wound:
            wound.heal()
    trial.healed = time.monotonic()
    history.events.append(Event(trial.healed, "heal", fault.name, trial.target))
    try:
        lab.await_health(fault.limit)
        trial.healthy = time.monotonic()
        history.events.append(Event(trial.healthy, "healthy", fault.name, trial.target))
    except LabError as error:
        trial.problem = f"{trial.problem} did not come back: {error}".strip()
    return trial


def count(trial: report.Trial, history: History) -> None:
    """Fill in what clients saw of a trial."""
    end = (trial.healthy or time.monotonic()) + 1.0
    for route in sorted({o.route for o in history.operations}):
        mine = [o for o in history.operations if o.route == route]
        trial.gaps[route] = checker.longest_gap(mine, trial.start, end)
    trial.errors = sum(bool(o.problem) and trial.start <= o.end <= end for o in history.operations)


def judge(lab: Lab, history: History) -> list[checker.Violation]:
    """Read the final state and compare it with the history."""
    postgres, valkey = postgresql.final(lab), valkey_clients.final(lab)
    total = postgresql.ACCOUNTS * postgresql.BALANCE
    waited = [key for key in valkey if key.startswith("fault:waited:")]
    counters = {key: int(value) for key, value in valkey.items() if key.startswith("fault:counter:")}
    found = checker.check_set(history.of("set", "write"), [tuple(row) for row in postgres["set"]])
    found += checker.check_sums(history.of("bank", "read"), total)
    if postgres["bank"] != total:
        found.append(checker.Violation("sum", "bank", f"{postgres['bank']} instead of {total} at the end"))
    found += checker.check_lists(history.of("lists"), postgres["lists"])
    found += checker.check_acknowledgers(history.of("set", "write"))
    found += checker.check_writers(outside(history.probes, frozen(history.events)))
    found += checker.check_set(history.of("waited", "write"), waited, "valkey, waited")
    found += checker.check_counters(history.of("counter", "write"), counters, "valkey, waited counter")
    # A plain write may be lost with its primary; it may never appear from nowhere.
    plain = [key for key in valkey if key.startswith("fault:plain:")]
    plain_found = checker.check_set(history.of("plain", "write"), plain, "valkey, plain")
    return found + [violation for violation in plain_found if violation.kind != "lost"]


def frozen(events: Sequence[Event]) -> list[tuple[float, float]]:
    """Return the times in which what has to end an old primary was frozen, until all was well again."""
    names = {fault.name for fault in FAULTS if fault.freezes}
    spans, begun = [], None
    for event in events:
        if event.fault in names and event.kind == "strike":
            begun = event.at
        elif event.fault in names and event.kind == "healthy" and begun is not None:
            spans.append((begun, event.at))
            begun = None
    return spans + ([(begun, math.inf)] if begun is not None else [])


def outside(probes: Iterable[Probe], spans: Sequence[tuple[float, float]]) -> list[Probe]:
    """Return the looks that lie outside of all spans."""
    return [p for p in probes if not any(start <= p.start <= end for start, end in spans)]


def plain_losses(lab: Lab, history: History) -> int:
    """Count acknowledged plain Valkey writes that are gone: what asynchronous replication cost."""
    keys = set(valkey_clients.final(lab))
    return sum(o.acknowledged and o.value not in keys for o in history.of("plain", "write"))


def chosen(options: argparse.Namespace) -> Iterable[Fault]:
    """Return the faults to run, in order."""
    named = [fault for fault in FAULTS if not options.only or any(word in fault.name for word in options.only)]
    if not named:
        raise SystemExit(
            f"no fault is named {' or '.join(options.only)}; there are: {', '.join(f.name for f in FAULTS)}"
        )
    if options.random:
        dice = random.Random(options.seed)
        return [dice.choice(named) for _turn in range(options.random)]
    return named * options.runs


def keep_logs(lab: Lab, folder: Path, since: float) -> None:
    """Keep what every service of every host said since the campaign began."""
    age = int(time.monotonic() - since) + 5
    units = " ".join(f"--unit '{unit}'" for unit in UNITS)
    for machine in lab.machines.values():
        text = machine.answers(f"journalctl --no-pager --output short-precise --since '-{age}s' {units}", timeout=60)
        (folder / f"{machine.name}.log").write_text(text, encoding="utf-8")


def campaign(lab: Lab, faults: Sequence[Fault], folder: Path) -> int:
    """Run faults and write the report. Returns the number of broken promises."""
    folder.mkdir(parents=True, exist_ok=True)
    history, trials = History(), []
    begin = time.monotonic()
    print(f"{len(faults)} faults; the lab has to be well first", flush=True)
    lab.await_health(60)
    postgresql.prepare(lab)
    valkey_clients.prepare(lab)
    with Clients(lab, history):
        time.sleep(SETTLE)
        for number, fault in enumerate(faults, start=1):
            trial = attempt(lab, fault, history)
            time.sleep(1.5)
            count(trial, history)
            trials.append(trial)
            worst = max(trial.gaps.values(), default=0.0)
            words = trial.problem or f"whole again {trial.recovery:.0f} s after healing"
            print(
                f"[{number}/{len(faults)}] {fault.name} ({trial.target}): longest gap {worst:.1f} s, {words}",
                flush=True,
            )
            if not trial.healthy:
                break
    try:
        violations = judge(lab, history)
    except (psycopg.Error, ValkeyError, ValkeyClusterException, OSError) as error:
        # What cannot be read any more is lost for those who wrote it; the report of the rest is needed all the more.
        violations = [checker.Violation("unreadable", "all", f"{type(error).__name__}: {error}".splitlines()[0])]
    stale = checker.staleness(history.of("set", "write"), history.of("set", "read"))
    oldest = max((age for _read, age in stale), default=0.0)
    failures = [trial for trial in trials if trial.problem]
    lost = plain_losses(lab, history) if not any(v.kind == "unreadable" for v in violations) else "unknown"
    text = "\n\n".join(
        [
            f"# Faults, {time.strftime('%Y-%m-%d')}",
            "Longest time without an acknowledged operation, in seconds, by route; errors that all clients together saw;"
            " seconds from healing to full redundancy.",
            report.table(trials),
            report.verdict(violations),
            f"Operations: {len(history.operations)}, acknowledged: {sum(o.acknowledged for o in history.operations)}."
            f" Looks for a second writer: {len(history.probes)}. Oldest read of a replica: {oldest:.1f} s."
            f" Valkey writes without WAIT that were acknowledged and lost: {lost}.",
            "Errors:\n\n"
            + "\n".join(f"- {n} x {words}" for words, n in checker.problems(history.operations).most_common(15)),
            "Not run:\n\n" + "\n".join(f"- {name}: {why}" for name, why in breakage.NOT_RUN.items()),
        ]
    )
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    (folder / "timeline.svg").write_text(
        report.timeline(trials, history.probes, checker.outages(history.operations), history.events), encoding="utf-8"
    )
    open_twice = len(checker.check_writers(history.probes))
    if open_twice:
        print(
            f"While Patroni or its host was frozen two servers were open to writes in {open_twice} looks (no watchdog device)."
        )
    data = {"trials": [asdict(t) for t in trials], "violations": [asdict(v) for v in violations], "oldest_read": oldest}
    (folder / "report.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    print(text)
    if violations or failures:
        history.save(folder / "history.jsonl")
        keep_logs(lab, folder, begin)
        print(f"history and logs of every service: {folder}", file=sys.stderr)
    return len(violations) + len(failures)


def main() -> None:
    """Run a campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of faults")
    parser.add_argument("--random", type=int, default=0, help="so many faults by chance")
    parser.add_argument("--seed", type=int, default=1, help="what chance begins with")
    parser.add_argument("--runs", type=int, default=1, help="how often the fixed set")
    parser.add_argument("--output", type=Path, default=Path(".cache/faults"))
    options = parser.parse_args()
    try:
        broken = campaign(Lab(), list(chosen(options)), options.output)
    except LabError as error:
        raise SystemExit(f"campaign: {error}") from error
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
