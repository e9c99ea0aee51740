"""What a campaign tells: a table, a timeline as SVG, JSON. Pure but for the files."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from faults.checker import Outage, Violation
from faults.history import Event, Probe

COLOURS = {"primary": "#2a7", "fault": "#d43", "outage": "#fa0", "healing": "#fd9"}
ROW = 22
LEFT = 170
WIDTH = 1400


@dataclass
class Trial:
    """One fault of a campaign. gaps: longest time without an acknowledgement, by route, in seconds."""

    fault: str
    target: str
    start: float
    healed: float = 0.0
    healthy: float = 0.0
    gaps: dict[str, float] = field(default_factory=dict)
    errors: int = 0
    problem: str = ""

    @property
    def recovery(self) -> float:
        """Seconds from healing to full redundancy."""
        return self.healthy - self.healed


def table(trials: Sequence[Trial]) -> str:
    """Return what each fault cost clients, as Markdown."""
    routes = sorted({route for trial in trials for route in trial.gaps})
    lines = [f"| fault | host | {' | '.join(routes)} | errors | whole again | |", "|---" * (len(routes) + 5) + "|"]
    for trial in trials:
        gaps = " | ".join(f"{trial.gaps.get(route, 0):.1f}" for route in routes)
        again = f"{trial.recovery:.0f}" if trial.healthy else "never"
        lines.append(f"| {trial.fault} | {trial.target} | {gaps} | {trial.errors} | {again} | {trial.problem} |")
    return "\n".join(lines)


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
