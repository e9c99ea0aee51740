# SPDX-License-Identifier: Apache-2.0
"""Break the lab while clients write, then check every acknowledged write.

    python -m faults.campaign [--only NAME …] [--runs N] [--minutes N] [--output DIRECTORY]
    python -m faults.campaign --seeds 1-100 [--output DIRECTORY]

Without options: every fault once, in a fixed order. With seeds: one short schedule of faults that overlap by chance for
each seed; a seed that is in the results already is left out. Exits 1 if a promise was broken or something did not come back.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from valkey.exceptions import ValkeyClusterException, ValkeyError

from faults import catalogue, checker, postgresql, report, schedule, valkey_clients
from faults.catalogue import FAULTS, Fault
from faults.checker import Violation
from faults.clients import Clients
from faults.history import History
from faults.lab import ROOT, Lab, LabError, await_true
from faults.report import Trial
from faults.trials import attempt, count, play
from faults.verdicts import judge, oldest_read

SETTLE = 1.0
# What a lab may need to be well before a campaign, and its Valkey primaries to be spread again.
READY = 180.0
UNITS = ("etcd", "patroni", "haproxy", "pgbouncer", "keepalived", "valkey-server@*", "valkey-respread")


@dataclass
class Outcome:
    """What a campaign found. plain: acknowledged Valkey writes without WAIT that are gone, None if unknown."""

    trials: list[Trial]
    violations: list[Violation]
    plain: int | None
    history: History

    @property
    def failures(self) -> list[Trial]:
        """Trials that did not happen or did not come back."""
        return [trial for trial in self.trials if trial.problem]

    @property
    def acknowledged(self) -> int:
        """How many operations were acknowledged."""
        return sum(operation.acknowledged for operation in self.history.operations)


def prepare(lab: Lab) -> None:
    """Make tables and keys anew; again where a connection still leads to what was broken before. Raises LabError."""

    def problem() -> str:
        try:
            postgresql.prepare(lab)
            valkey_clients.prepare(lab)
        except (psycopg.Error, ValkeyError, ValkeyClusterException, OSError) as error:
            return f"{type(error).__name__}: {error}".splitlines()[0]
        return ""

    await_true(problem, 30)


def keep_logs(lab: Lab, folder: Path, since: float) -> None:
    """Keep what every service of every host said since the campaign began."""
    age = int(time.monotonic() - since) + 5
    units = " ".join(f"--unit '{unit}'" for unit in UNITS)
    for machine in lab.machines.values():
        text = machine.answers(f"journalctl --no-pager --output short-precise --since '-{age}s' {units}", timeout=60)
        (folder / f"{machine.name}.log").write_text(text, encoding="utf-8")


def keep(lab: Lab, folder: Path, outcome: Outcome, since: float) -> None:
    """Keep the history and the logs of all services."""
    folder.mkdir(parents=True, exist_ok=True)
    outcome.history.save(folder / "history.jsonl")
    keep_logs(lab, folder, since)
    print(f"history and logs of every service: {folder}", file=sys.stderr)


def fixed(lab: Lab, faults: Sequence[Fault], folder: Path, minutes: float) -> int:
    """Run faults one after the other and write the report. Returns the number of broken promises and failures.

    None begins after minutes; what was left out by that is told.
    """
    folder.mkdir(parents=True, exist_ok=True)
    history: History = History()
    trials: list[Trial] = []
    begin = time.monotonic()
    print(f"{len(faults)} faults; the lab has to be well first", flush=True)
    lab.await_health(READY)
    prepare(lab)
    with Clients(lab, history):
        time.sleep(SETTLE)
        for number, fault in enumerate(faults, start=1):
            if time.monotonic() - begin > minutes * 60:
                break
            if fault.crowding:
                _spread(lab)
            trial = attempt(lab, fault, history)
            if trial.healthy and not trial.happened:
                print(f"once more: {report.line(trial)}", flush=True)
                trial = attempt(lab, fault, history)
            time.sleep(1.0)
            count(trial, history)
            trials.append(trial)
            print(f"[{time.monotonic() - begin:4.0f} s] {number}/{len(faults)} {report.line(trial)}", flush=True)
            if not trial.healthy:
                break
    violations, plain = judge(lab, history)
    outcome = Outcome(trials, violations, plain, history)
    left = sorted({fault.name for fault in faults} - {trial.fault for trial in trials})
    _write_report(folder, outcome, time.monotonic() - begin, left)
    _add_figures(lab, folder, outcome)
    if outcome.violations or outcome.failures:
        keep(lab, folder, outcome, begin)
    return len(outcome.violations) + len(outcome.failures)


def _spread(lab: Lab) -> None:
    """Wait until no host has most of Valkey's primaries; continue where that takes too long: it is no promise."""
    try:
        lab.await_health(READY)
    except LabError as error:
        print(f"going on: {error}", flush=True)


def _add_figures(lab: Lab, folder: Path, outcome: Outcome) -> None:
    """Add what each fault cost to what earlier runs of this folder found, and write medians and worst of all."""
    results = folder / "trials.jsonl"
    words: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "revision": revision(),
        "load": round(os.getloadavg()[1], 1),
    }
    words |= {"versions": lab.versions(), "cores": os.cpu_count() or 0}
    with results.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(words | asdict(trial)) + "\n" for trial in outcome.trials if trial.healthy)
    (folder / "figures.md").write_text(report.figures(report.records(results)), encoding="utf-8")


def _write_report(folder: Path, outcome: Outcome, seconds: float, left: Sequence[str]) -> None:
    history = outcome.history
    oldest = oldest_read(history)
    frozen_writers = len(checker.check_writers(history.probes)) - sum(
        v.kind == "two writers" for v in outcome.violations
    )
    text = "\n\n".join(
        [
            f"# Faults, {time.strftime('%Y-%m-%d')}",
            "Longest time without an acknowledged operation, in seconds, by route; errors that all clients together saw;"
            " seconds from healing to full redundancy.",
            report.table(outcome.trials),
            report.verdict(outcome.violations),
            f"{len(outcome.trials)} faults in {seconds:.0f} s. Operations: {len(history.operations)}, acknowledged:"
            f" {outcome.acknowledged}. Looks for a second writer: {len(history.probes)}, of which {frozen_writers} found two"
            f" while Patroni or its host was frozen. Oldest read of a replica: {oldest:.1f} s."
            f" Valkey writes without WAIT that were acknowledged and lost: {outcome.plain}.",
            "Errors:\n\n"
            + "\n".join(f"- {n} x {words}" for words, n in checker.problems(history.operations).most_common(15)),
            "Not run:\n\n"
            + "\n".join(f"- {name}: {why}" for name, why in catalogue.NOT_RUN.items())
            + "".join(f"\n- {name}: the time was over" for name in left),
        ]
    )
    (folder / "report.md").write_text(text + "\n", encoding="utf-8")
    image = report.timeline(outcome.trials, history.probes, checker.outages(history.operations), history.events)
    (folder / "timeline.svg").write_text(image, encoding="utf-8")
    data = {
        "trials": [asdict(t) for t in outcome.trials],
        "violations": [asdict(v) for v in outcome.violations],
        "oldest_read": oldest,
        "plain_lost": outcome.plain,
    }
    (folder / "report.json").write_text(json.dumps(data, indent=1), encoding="utf-8")
    print(text)


# Schedules by chance


def revision() -> str:
    """Return which version of the collection the lab is tested with."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def seeded(lab: Lab, seeds: Sequence[int], faults: Sequence[Fault], folder: Path) -> int:
    """Run the schedule of each seed that has no result yet and add it to the results. Returns how many failed.

    SIGTERM ends it after the schedule that is under way.
    """
    folder.mkdir(parents=True, exist_ok=True)
    over = threading.Event()
    signal.signal(signal.SIGTERM, lambda _number, _frame: over.set())
    results = folder / "results.jsonl"
    done = {record["seed"] for record in report.records(results)}
    names = [fault.name for fault in faults if fault.chance]
    failed = 0
    for seed in seeds:
        if seed in done or over.is_set():
            continue
        begin = time.monotonic()
        lab.await_health(READY, spread=False)
        steps = schedule.draw(seed, names)
        outcome = one_schedule(lab, steps)
        record = report.record(seed, revision(), steps, outcome.trials, outcome.violations)
        record |= {
            "acknowledged": outcome.acknowledged,
            "looks": len(outcome.history.probes),
            "plain_lost": outcome.plain,
            "oldest_read": round(oldest_read(outcome.history), 1),
            "seconds": round(time.monotonic() - begin, 1),
        }
        if record["failed"]:
            failed += 1
            keep(lab, folder / f"seed-{seed}", outcome, begin)
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        (folder / "report.md").write_text(report.summary(report.records(results)), encoding="utf-8")
        print(report.schedule_line(record), flush=True)
    print(report.summary(report.records(results)))
    return failed


def one_schedule(lab: Lab, steps: Sequence[schedule.Step]) -> Outcome:
    """Run one schedule under clients of its own."""
    history = History()
    prepare(lab)
    with Clients(lab, history):
        time.sleep(SETTLE)
        trials = play(lab, steps, history)
        time.sleep(1.0)
    for trial in trials:
        count(trial, history)
    violations, plain = judge(lab, history)
    return Outcome(trials, violations, plain, history)


# The command


def chosen(options: argparse.Namespace) -> list[Fault]:
    """Return the faults that are meant, in order."""
    found = [fault for fault in FAULTS if not options.only or any(word in fault.name for word in options.only)]
    if not found:
        raise SystemExit(
            f"no fault is named {' or '.join(options.only)}; there are: {', '.join(f.name for f in FAULTS)}"
        )
    return found


def seeds_of(words: str) -> list[int]:
    """Return the numbers of `7` or `1-100`."""
    first, dash, last = words.partition("-")
    try:
        return list(range(int(first), int(last if dash else first) + 1))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{words} is neither a number nor a range such as 1-100") from None


def main() -> None:
    """Run a campaign."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of faults")
    parser.add_argument("--runs", type=int, default=1, help="how often the fixed set")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no fault of the fixed set after so long")
    parser.add_argument("--seeds", type=seeds_of, default=[], help="schedules by chance: a seed, or a range of them")
    parser.add_argument("--output", type=Path, default=Path(".cache/faults"))
    options = parser.parse_args()
    try:
        faults = chosen(options)
        if options.seeds:
            broken = seeded(Lab(), options.seeds, faults, options.output)
        else:
            broken = fixed(Lab(), faults * options.runs, options.output, options.minutes)
    except LabError as error:
        raise SystemExit(f"campaign: {error}") from error
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
