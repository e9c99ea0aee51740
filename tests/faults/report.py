# SPDX-License-Identifier: Apache-2.0
"""What a campaign tells: a table, a timeline as SVG, JSON. Pure but for the files."""

from __future__ import annotations

import html
import json
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults.checker import Outage, Violation
from faults.history import Event, Probe
from faults.schedule import Step

COLOURS = {"primary": "#2a7", "fault": "#d43", "outage": "#fa0", "healing": "#fd9"}
ROW = 22
LEFT = 170
WIDTH = 1400


@dataclass
class Trial:
    """One fault of a campaign.

    gaps: longest time without an acknowledgement, by route, in seconds; away: all such times over a second together.
    failed: errors by route. states: errors by SQLSTATE, with 40001 of serializable transactions.
    skipped: why it found nothing to hit, where something else was broken at the time.
    recovering: what was sick after healing, each from which second on.
    """

    fault: str
    target: str
    start: float
    healed: float = 0.0
    healthy: float = 0.0
    gaps: dict[str, float] = field(default_factory=dict)
    errors: int = 0
    problem: str = ""
    away: dict[str, float] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    happened: bool = False
    skipped: str = ""
    recovering: list[tuple[float, str]] = field(default_factory=list)
    states: dict[str, int] = field(default_factory=dict)

    @property
    def recovery(self) -> float:
        """Seconds from healing to full redundancy."""
        return max(0.0, self.healthy - self.healed)


def table(trials: Sequence[Trial]) -> str:
    """Return what each fault cost clients, as Markdown."""
    routes = sorted({route for trial in trials for route in trial.gaps})
    lines = [f"| fault | host | {' | '.join(routes)} | errors | by SQLSTATE | whole again | |"]
    lines.append("|---" * (len(routes) + 6) + "|")
    for trial in trials:
        gaps = " | ".join(f"{trial.gaps.get(route, 0):.1f}" for route in routes)
        again = f"{trial.recovery:.0f}" if trial.healthy else "never"
        lines.append(
            f"| {trial.fault} | {trial.target} | {gaps} | {trial.errors} | {by_state(trial.states)} | {again} | {trial.problem} |"
        )
    return "\n".join(lines)


def by_state(states: Mapping[str, int]) -> str:
    """Return counted errors for people: `25006: 3, 57P01: 1`."""
    return ", ".join(f"{state}: {count}" for state, count in states.items())


def line(trial: Trial) -> str:
    """Return one trial in a line, while the campaign runs."""
    route = max(trial.gaps, key=lambda name: trial.gaps[name], default="")
    words = trial.problem or f"whole again {trial.recovery:.0f} s after healing"
    return f"{trial.fault} ({trial.target}): longest gap {trial.gaps.get(route, 0.0):.1f} s ({route}), {words}"


def verdict(violations: Sequence[Violation]) -> str:
    """Return the broken promises for people; few of each kind."""
    if not violations:
        return "No violation: every acknowledged write is there, and nothing else."
    lines = [f"{len(violations)} violations:"]
    for kind in sorted({v.kind for v in violations}):
        some = [v for v in violations if v.kind == kind]
        lines += [f"  {kind}: {len(some)}", *(f"    {v.workload}: {v.detail}" for v in some[:5])]
    return "\n".join(lines)


def leaders(probes: Iterable[Probe]) -> list[tuple[str, float, float]]:
    """Return the times in which a server was seen taking writes."""
    spans: list[tuple[str, float, float]] = []
    by_node: dict[str, list[Probe]] = {}
    for probe in probes:
        by_node.setdefault(probe.node, []).append(probe)
    for node, looks in by_node.items():
        for look in looks:
            if not look.writable:
                continue
            if spans and spans[-1][0] == node and look.start - spans[-1][2] < 1.0:
                spans[-1] = (node, spans[-1][1], look.end)
            else:
                spans.append((node, look.start, look.end))
    return spans


def timeline(
    trials: Sequence[Trial], probes: Sequence[Probe], outages: Sequence[Outage], events: Sequence[Event]
) -> str:
    """Return an SVG: a row for the faults, one for each server with its times as primary, one for each route."""
    begin = min([e.at for e in events] + [t.start for t in trials])
    end = max([e.at for e in events] + [t.healthy or t.healed for t in trials])
    nodes = sorted({probe.node for probe in probes})
    rows = ["faults", *nodes, *sorted({outage.route for outage in outages})]
    scale = WIDTH / max(end - begin, 1e-9)
    shapes = []

    def draw(row: str, start: float, stop: float, kind: str, words: str) -> None:
        x, y = LEFT + (start - begin) * scale, rows.index(row) * ROW + 30
        width = max((stop - start) * scale, 1)
        title = html.escape(words)
        shapes.append(
            f'<rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 6}" fill="{COLOURS[kind]}"><title>{title}</title></rect>'
        )

    for trial in trials:
        last = trial.healthy or trial.healed
        draw(
            "faults",
            trial.healed,
            max(last, trial.healed),
            "healing",
            f"{trial.fault}: healing, {last - trial.healed:.1f} s",
        )
        draw("faults", trial.start, trial.healed, "fault", f"{trial.fault} on {trial.target}")
    for node, start, stop in leaders(probes):
        draw(node, start, stop, "primary", f"{node} took writes for {stop - start:.1f} s")
    for outage in outages:
        draw(outage.route, outage.start, outage.end, "outage", f"{outage.route}: nothing for {outage.seconds:.1f} s")
    for index, row in enumerate(rows):
        shapes.append(f'<text x="8" y="{index * ROW + 43}">{html.escape(row)}</text>')
    for second in range(0, int(end - begin) + 1, max(10, int((end - begin) / 20 / 10) * 10)):
        x = LEFT + second * scale
        shapes.append(f'<text x="{x:.0f}" y="18" fill="#777">{second} s</text>')
    size = f'width="{LEFT + WIDTH + 20}" height="{len(rows) * ROW + 40}"'
    style = 'font-family="sans-serif" font-size="12"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n' + "\n".join(shapes) + "\n</svg>\n"


# The ways that PostgreSQL's clients write, and Valkey's.
WRITES = {"PostgreSQL": ("pool", "balancers"), "Valkey": ("valkey plain",)}


def figures(found: Sequence[Mapping[str, Any]]) -> str:
    """Return how long writers waited for each fault over all its runs, as Markdown: median and worst, in seconds."""
    ways = [f"{name}, {figure}" for name in WRITES for figure in ("median", "worst")]
    lines = [
        f"| fault | runs | {' | '.join(ways)} | errors of pool clients, median | 25006 in all runs | whole again, median |"
    ]
    lines.append("|---" * (len(ways) + 5) + "|")
    for fault in sorted({one["fault"] for one in found}):
        mine = [one for one in found if one["fault"] == fault]
        cells = []
        for routes in WRITES.values():
            gaps = [max(one["gaps"].get(route, 0.0) for route in routes) for one in mine]
            cells += [f"{statistics.median(gaps):.1f}", f"{max(gaps):.1f}"]
        errors = statistics.median(one["failed"].get("pool", 0) for one in mine)
        told = [one["states"].get("25006", 0) for one in mine if "states" in one]
        again = statistics.median(max(0.0, one["healthy"] - one["healed"]) for one in mine)
        lines.append(
            f"| {fault} | {len(mine)} | {' | '.join(cells)} | {errors:.0f} | {sum(told) if told else 'not counted'} | {again:.0f} |"
        )
    return "\n".join([*lines, "", *conditions(found)]) + "\n"


def conditions(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what the figures depend on: when, on how large a machine, with what load, of which versions."""
    if not found:
        return []
    dates, loads = sorted({one["date"] for one in found}), [one["load"] for one in found]
    when = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    versions = "; ".join(sorted({one["versions"] for one in found}))
    machine = f"{max(one['cores'] for one in found)} cores for hosts, clients and probes"
    return [f"{when}, {machine}, load average {min(loads)} to {max(loads)}. {versions}."]


# Schedules by chance: a record for each seed, and what they say together.

LOSSES = ("lost", "phantom", "duplicated", "reordered", "cycle")


def record(
    seed: int, revision: str, steps: Sequence[Step], trials: Sequence[Trial], violations: Sequence[Violation]
) -> dict[str, Any]:
    """Return what is kept of one schedule."""
    by_name = {trial.fault: trial for trial in trials}
    return {
        "seed": seed,
        "date": time.strftime("%Y-%m-%d"),
        "revision": revision,
        "steps": [[step.fault, step.at, step.until] for step in steps],
        "happened": [step.fault for step in steps if by_name[step.fault].happened],
        "recovering": trials[0].recovering,
        "skipped": {trial.fault: trial.skipped for trial in trials if trial.skipped},
        "problems": sorted({trial.problem for trial in trials if trial.problem}),
        "violations": [asdict(violation) for violation in violations[:20]],
        "violations_count": len(violations),
        "gaps": {
            route: round(max(trial.gaps.get(route, 0.0) for trial in trials), 1)
            for route in sorted({route for trial in trials for route in trial.gaps})
        },
        "failed": bool(violations or any(trial.problem for trial in trials)),
    }


def records(path: Path) -> list[dict[str, Any]]:
    """Read the records of a file, none if there is no file."""
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text]


def schedule_line(found: Mapping[str, Any]) -> str:
    """Return one schedule in a line, while they run."""
    what = "; ".join(f"{name} {at}-{until} s" for name, at, until in found["steps"])
    bad = [*found["problems"], *(f"{v['kind']}: {v['detail']}" for v in found["violations"][:2])]
    return f"seed {found['seed']}: {what}: {' / '.join(bad) or 'no violation'} ({found['seconds']:.0f} s)"


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """Return a page about all schedules: totals, how often each fault happened, and those that failed."""
    happened = Counter(name for one in found for name in one["happened"])
    kinds = Counter(violation["kind"] for one in found for violation in one["violations"])
    failed = [one for one in found if one["failed"]]
    rows = [
        ("schedules", len(found)),
        ("faults that happened", sum(happened.values())),
        ("operations acknowledged", sum(one["acknowledged"] for one in found)),
        (
            "PostgreSQL and waited Valkey writes lost, doubled, out of order or from nowhere",
            sum(kinds[k] for k in LOSSES),
        ),
        ("wrong sums", kinds["sum"]),
        ("looks at each server for a second writer", sum(one["looks"] for one in found)),
        ("two writers at one time", kinds["two writers"] + kinds["two acknowledgers"]),
        ("schedules after which something did not come back by itself", sum(bool(one["problems"]) for one in found)),
        ("Valkey writes without WAIT that were lost", sum(one["plain_lost"] or 0 for one in found)),
        ("oldest read of a replica, in seconds", max((one["oldest_read"] for one in found), default=0)),
    ]
    lines = ["| | |", "|---|---|", *(f"| {words} | {number} |" for words, number in rows), ""]
    lines += ["| fault | times |", "|---|---|", *(f"| {name} | {n} |" for name, n in sorted(happened.items())), ""]
    lines += [f"Seed {one['seed']} failed: {schedule_line(one)}" for one in failed]
    return "\n".join(lines).rstrip() + "\n"
