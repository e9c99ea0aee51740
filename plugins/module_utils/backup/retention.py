# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which backups are kept. No I/O.

A rule keeps; nothing is deleted because it is old, only because no rule wants it any more. Whatever the rule, of each series
(say, one kind of dump of one database) these stay: the newest good backup, the newest proved one, and all that a kept one needs.
What is not superseded by a newer good backup stays as well.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

_LARGEST = 100_000
_DAY = 86_400.0


@dataclass(frozen=True)
class Rule:
    """What to keep: a backup that any of these wants stays.

    count: the newest so many. days: those that ended in the last so many days. daily, weekly, monthly, yearly: the newest one of
    each of the last so many days, ISO weeks, months and years (UTC) that have one.
    """

    count: int = 0
    days: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0


@dataclass(frozen=True)
class Item:
    """A backup as retention sees it. end is in seconds since 1970; needs names labels of the series it can't be restored without."""

    label: str
    series: str
    end: float
    good: bool = True
    proved: bool = False
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """What happens to one backup, and why."""

    label: str
    series: str
    keep: bool
    reason: str


_PERIODS: dict[str, Callable[[datetime.datetime], tuple[int, ...]]] = {
    "daily": lambda moment: (moment.year, moment.month, moment.day),
    "weekly": lambda moment: tuple(moment.isocalendar())[:2],
    "monthly": lambda moment: (moment.year, moment.month),
    "yearly": lambda moment: (moment.year,),
}


def parse_rule(entry: object, where: str = "retention") -> Rule:
    """Return the rule that an operator declared as a dictionary. Raises Refusal."""
    names = [field.name for field in fields(Rule)]
    if not isinstance(entry, Mapping):
        raise Refusal(f"{where}: {entry!r} is not a rule: a dictionary of {', '.join(names)}")
    unknown = [str(name) for name in entry if name not in names]
    if unknown:
        raise Refusal(f"{where}: {', '.join(sorted(unknown))} is unknown; a rule has {', '.join(names)}")
    for name, value in entry.items():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST:
            raise Refusal(f"{where}: {name} is {value!r}; allowed is a whole number from 0 to {_LARGEST}")
    rule = Rule(**entry)
    if not any(entry.values()):
        raise Refusal(f"{where}: the rule keeps nothing; give one of {', '.join(names)} more than 0")
    return rule


def plan(items: Iterable[Item], rule: Rule, now: float) -> list[Decision]:
    """Return what happens to each backup, the newest first in each series.

    Parameters: now, in seconds since 1970.
    """
    series: dict[str, list[Item]] = {}
    for item in items:
        series.setdefault(item.series, []).append(item)
    return [decision for name in sorted(series) for decision in _series(series[name], rule, now)]


def _series(items: list[Item], rule: Rule, now: float) -> list[Decision]:
    ordered = sorted(items, key=lambda item: (item.end, item.label), reverse=True)
    reasons = _wanted([item for item in ordered if item.good], rule, now)
    _protect(ordered, reasons)
    _hold_needed(ordered, reasons)
    return [
        Decision(item.label, item.series, item.label in reasons, reasons.get(item.label) or _why_not(item))
        for item in ordered
    ]


def _why_not(item: Item) -> str:
    return "superseded, and no rule wants it" if item.good else "not good, and superseded by a good one"


def _wanted(good: list[Item], rule: Rule, now: float) -> dict[str, str]:
    """Return why the rule wants a backup, by label. Backups that are not good count for no rule: they would push good ones out."""
    reasons: dict[str, str] = {}
    for place, item in enumerate(good[: rule.count], 1):
        reasons.setdefault(item.label, f"count: {place} of {rule.count}")
    for item in good:
        if rule.days and item.end >= now - rule.days * _DAY:
            reasons.setdefault(item.label, f"days: ended in the last {rule.days}")
    for name, period_of in _PERIODS.items():
        firsts: dict[tuple[int, ...], Item] = {}
        for item in good:
            firsts.setdefault(period_of(datetime.datetime.fromtimestamp(item.end, datetime.UTC)), item)
        for period, item in list(firsts.items())[: getattr(rule, name)]:
            reasons.setdefault(item.label, f"{name}: newest of {'-'.join(f'{part:02}' for part in period)}")
    return reasons


def _protect(ordered: list[Item], reasons: dict[str, str]) -> None:
    newest = next((item for item in ordered if item.good), None)
    if newest is not None:
        reasons.setdefault(newest.label, "the last good one")
    proved = next((item for item in ordered if item.good and item.proved), None)
    if proved is not None:
        reasons.setdefault(proved.label, "the last proved one")
    for item in ordered:
        if newest is None or item.end > newest.end:
            reasons.setdefault(item.label, "no newer good one supersedes it")


def _hold_needed(ordered: list[Item], reasons: dict[str, str]) -> None:
    by_label = {item.label: item for item in ordered}
    waiting = [by_label[label] for label in reasons]
    while waiting:
        item = waiting.pop()
        for label in item.needs:
            if label in by_label and label not in reasons:
                reasons[label] = f"{item.label} needs it"
                waiting.append(by_label[label])


def expiry(item: Item, rule: Rule) -> float | None:
    """Return when a backup may go at the earliest by its age alone, in seconds since 1970; None where age decides nothing."""
    periods = (rule.count, rule.daily, rule.weekly, rule.monthly, rule.yearly)
    return item.end + rule.days * _DAY if rule.days and not any(periods) else None
