# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Jobs that a schedule is made of, and the systemd units that run them. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import calendar
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import START
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PREFIX = "holdfast-backup-"
UNIT_DIR = "/etc/systemd/system"
MARK = "# Written by Ansible (holdfast.persistence.backup)."
KINDS = ("pgbackrest", "logical", "valkey", "events", "prune", "upload", "drill", "metrics")
PLACES = ("here", "primary", "replica")
IO_CLASSES = ("best-effort", "idle", "realtime", "none")
SECTIONS = ("full", "schema", "data", "globals")
# What each kind can be told; where a kind is not here its own code judges.
_OPTIONS: dict[str, dict[str, Any]] = {
    "pgbackrest": {"type": ("full", "diff", "incr"), "repositories": list},
    "logical": {"sections": SECTIONS, "databases": list, "parallel": int, "source": ("replica", "primary")},
    "valkey": {"type": ("rdb", "aof"), "source": ("auto", "primary", "replica")},
    "events": {
        "kind": ("marten", "akka"),
        "database": str,
        "schema": str,
        "snapshot_schema": str,
        "mapping": ("default", "postgresql"),
        "archive": str,
        "days": int,
        "tenants": list,
        "types": list,
        "carry": list,
        "parallel": int,
        "source": ("replica", "primary"),
    },
    "drill": {"engines": ("postgresql", "valkey", "events"), "probes": dict},
    "prune": {"engines": ("logical", "valkey", "events")},
    "upload": {"engines": ("logical", "valkey", "events"), "targets": list},
    "metrics": {},
}
_LISTS = {("logical", "sections"), ("drill", "engines"), ("prune", "engines"), ("upload", "engines")}
_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,40}$")
_RATE = re.compile(r"^(\d+)([KMG]?)$")
_FACTORS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_DAY = 86_400


@dataclass(frozen=True)
class Job:
    """One job.

    calendar: when, as systemd.time(7) says it. where: `here`, or only while this host's PostgreSQL is the primary or the replica
    that Patroni names first. delay: longest random delay of a run, in seconds. persistent: whether a missed run is made up for.
    nice, io_class, io_priority: how much it yields to others. rate: bytes a second it may write, 0 for any. timeout: seconds
    after which it is ended. wait: seconds it waits for another job of the same resource. options: what its kind understands.
    """

    name: str
    kind: str
    calendar: str
    where: str = "here"
    delay: int = 300
    persistent: bool = True
    nice: int = 10
    io_class: str = "best-effort"
    io_priority: int = 7
    rate: int = 0
    timeout: int = _DAY
    wait: int = 3600
    options: Mapping[str, Any] = field(default_factory=dict)


_NUMBERS = {
    "delay": (0, _DAY),
    "nice": (-20, 19),
    "io_priority": (0, 7),
    "timeout": (1, 30 * _DAY),
    "wait": (0, 7 * _DAY),
}


def parse(entries: Iterable[Mapping[str, Any]]) -> list[Job]:
    """Return the jobs that an operator declared. Raises Refusal for the first one that can't be used."""
    jobs: list[Job] = []
    for index, entry in enumerate(entries):
        job = parse_one(entry, f"job {index + 1}")
        if job.name in {other.name for other in jobs}:
            raise Refusal(f"two jobs are called {job.name}: give each a name of its own")
        jobs.append(job)
    return jobs


def parse_one(entry: Mapping[str, Any], where: str = "job") -> Job:
    """Return one job. Raises Refusal."""
    if not isinstance(entry, Mapping):
        raise Refusal(f"{where}: {entry!r} is not a dictionary")
    name = entry.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise Refusal(f"{where}: name {name!r}; allowed are up to 41 lower case letters, digits, - and _")
    where = f"job {name}"
    unknown = sorted(set(entry) - set(Job.__dataclass_fields__))
    if unknown:
        raise Refusal(f"{where}: {', '.join(unknown)} is unknown; allowed are {', '.join(Job.__dataclass_fields__)}")
    values = {key: value for key, value in entry.items() if value is not None}
    _choice(where, values, "kind", KINDS, required=True)
    _choice(where, values, "where", PLACES)
    _choice(where, values, "io_class", IO_CLASSES)
    for key, (low, high) in _NUMBERS.items():
        _number(where, values, key, low, high)
    if not isinstance(values.get("persistent", True), bool):
        raise Refusal(f"{where}: persistent is {values['persistent']!r}; allowed are true and false")
    values["calendar"] = _calendar(where, values.get("calendar"))
    values["rate"] = parse_rate(where, values.get("rate", 0))
    values["options"] = _options(where, values["kind"], values.get("options") or {})
    return Job(**values)


def _choice(where: str, values: Mapping[str, Any], key: str, allowed: Sequence[str], required: bool = False) -> None:
    if (required or key in values) and values.get(key) not in allowed:
        raise Refusal(f"{where}: {key} is {values.get(key)!r}; allowed are {', '.join(allowed)}")


def _number(where: str, values: Mapping[str, Any], key: str, low: int, high: int) -> None:
    value = values.get(key, low)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise Refusal(f"{where}: {key} is {value!r}; allowed is a whole number from {low} to {high}")


def _calendar(where: str, expression: object) -> str:
    if not isinstance(expression, str):
        raise Refusal(f"{where}: calendar is {expression!r}; it needs an expression such as 'Sun 01:30'")
    try:
        return calendar.check(expression)
    except Refusal as error:
        raise Refusal(f"{where}: calendar {error}") from None


def parse_rate(where: str, value: object) -> int:
    """Return bytes a second from a number, or a text such as 20M. Raises Refusal."""
    match = _RATE.match(str(value)) if not isinstance(value, bool) else None
    if not match:
        raise Refusal(f"{where}: rate is {value!r}; allowed are bytes a second such as 500K or 20M, 0 for no limit")
    return int(match[1]) * _FACTORS[match[2]]


def _options(where: str, kind: str, options: object) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise Refusal(f"{where}: options are {options!r}; allowed is a dictionary")
    allowed = _OPTIONS.get(kind)
    if allowed is None:
        return dict(options)
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise Refusal(
            f"{where}: options {', '.join(unknown)} are unknown to {kind}; allowed are {', '.join(allowed) or 'none'}"
        )
    if kind == "events" and "database" not in options:
        raise Refusal(f"{where}: options need database: the one that holds the event store")
    if kind == "pgbackrest" and "type" not in options:
        raise Refusal(f"{where}: options need type: full, diff or incr")
    for key, value in options.items():
        _option(f"{where}: options.{key}", value, allowed[key], (kind, key) in _LISTS)
    return dict(options)


def _option(where: str, value: object, wanted: Any, many: bool) -> None:
    if wanted is list or many:
        if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
            raise Refusal(f"{where} is {value!r}; allowed is a list of texts")
        wrong = [item for item in value if many and item not in wanted]
        if wrong:
            raise Refusal(f"{where} has {wrong[0]!r}; allowed are {', '.join(wanted)}")
    elif wanted is dict:
        if not isinstance(value, list) or not all(isinstance(item, Mapping) and item.get("query") for item in value):
            raise Refusal(f"{where} is {value!r}; allowed is a list of dictionaries, each with a query")
    elif wanted is str:
        if not isinstance(value, str) or not value:
            raise Refusal(f"{where} is {value!r}; allowed is a text")
    elif wanted is int:
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 64:
            raise Refusal(f"{where} is {value!r}; allowed is a whole number from 1 to 64")
    elif value not in wanted:
        raise Refusal(f"{where} is {value!r}; allowed are {', '.join(wanted)}")


def as_dict(job: Job) -> dict[str, Any]:
    """Return a job as the program reads it."""
    return {name: getattr(job, name) for name in Job.__dataclass_fields__} | {"options": dict(job.options)}


def dump(jobs: Iterable[Job], since: Mapping[str, float]) -> str:
    """Return the file of jobs for the program. since: when each was first declared, in seconds since 1970."""
    content = {job.name: {**as_dict(job), "since": since[job.name]} for job in jobs}
    return json.dumps({"jobs": content}, indent=1, sort_keys=True) + "\n"


def service(job: Job, program: str, writable: str) -> str:
    """Return the text of the service that runs a job. writable: folder that `rate` is about."""
    lines = [
        MARK,
        "[Unit]",
        f"Description=Backup job {job.name} ({job.kind})",
        "Wants=network-online.target",
        "After=network-online.target",
        "",
        "[Service]",
        "Type=oneshot",
        f"ExecStart={' '.join(START)} {program} run {job.name}",
        f"TimeoutStartSec={job.timeout}",
        # What a job started ends with it.
        "KillMode=control-group",
        f"Nice={job.nice}",
    ]
    if job.io_class != "none":
        lines += [f"IOSchedulingClass={job.io_class}"]
        # The class idle has no priorities.
        lines += [f"IOSchedulingPriority={job.io_priority}"] if job.io_class != "idle" else []
    if job.rate and writable:
        lines += [f"IOWriteBandwidthMax={writable} {job.rate}"]
    lines += ["PrivateTmp=yes", "ProtectHome=yes", "ProtectKernelTunables=yes", "ProtectKernelModules=yes"]
    return "\n".join([*lines, ""])


def timer(job: Job) -> str:
    """Return the text of the timer that starts a job."""
    return "\n".join(
        [
            MARK,
            "[Unit]",
            f"Description=When the backup job {job.name} runs",
            "",
            "[Timer]",
            f"OnCalendar={job.calendar}",
            f"RandomizedDelaySec={job.delay}",
            "AccuracySec=1s",
            f"Persistent={'yes' if job.persistent else 'no'}",
            "",
            "[Install]",
            "WantedBy=timers.target",
            "",
        ]
    )


def units(jobs: Iterable[Job], program: str, writable: str) -> dict[str, str]:
    """Return the text of every unit file by its path."""
    found = {}
    for job in jobs:
        found[f"{UNIT_DIR}/{PREFIX}{job.name}.service"] = service(job, program, writable)
        found[f"{UNIT_DIR}/{PREFIX}{job.name}.timer"] = timer(job)
    return found
