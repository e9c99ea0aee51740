# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The catalogue of a host: read from its stores each time, so that it can't drift from them."""

from __future__ import annotations

import datetime
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import (
    catalogue,
    offsite,
    physical,
    retention,
    store,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.catalogue import Entry, Limits
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import PREFIX
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.proofs import Proof
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import Finding, to_dict
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.gaps import Gap
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

LOCAL = "local"
TIMER_SECONDS = 15
# A run may begin this much after its time: the random delay of a job, and one that waits for another one.
LATE_SECONDS = 2 * 3600.0


@dataclass(frozen=True)
class Collected:
    """What all stores hold, and by name why one could not be read."""

    entries: Sequence[Entry]
    repositories: Mapping[str, str]
    faults: Sequence[str] = ()
    gaps: Mapping[str, Sequence[Gap]] = field(default_factory=dict)


def collect(context: Context, deep: bool = False) -> Collected:
    """Return the backups of all engines in all places. deep: contents of local files are compared with their digests."""
    entries: list[Entry] = []
    repositories: dict[str, str] = {}
    gaps: Mapping[str, Sequence[Gap]] = {}
    if context.config.get("pgbackrest"):
        found, broken = _physical(context)
        entries += found
        repositories.update(broken)
        # Only there may pgBackRest drop WAL, and only the names of files tell.
        if context.section("pgbackrest").get("drops_wal") and not any(broken.values()):
            gaps = physical.gaps(context)
    proofs: list[Proof] = []
    faults: list[str] = []
    if context.backup_dir:
        entries += _local(context, deep)
        repositories[LOCAL] = "" if os.path.isdir(context.backup_dir) else f"{context.backup_dir} is missing"
        proofs, faults = store.read_proofs(context.backup_dir)
        for target in offsite.targets(context):
            try:
                entries += _remote(target)
                repositories[target.name] = ""
            except Refusal as error:
                repositories[target.name] = str(error)
    return Collected(catalogue.with_proofs(entries, proofs), repositories, faults, gaps)


def _physical(context: Context) -> tuple[list[Entry], dict[str, str]]:
    own = [item for item in context.section("pgbackrest")["repositories"] if item["own"]]
    answers = physical.answers(context)
    found = (
        catalogue.from_stanza(
            answers.stanza,
            {item["number"]: item["name"] for item in own},
            {item["number"]: item["path"] for item in own},
            {item["number"]: item["retention_days"] for item in own if item.get("retention_days")},
        )
        if answers.stanza
        else []
    )
    return found, {item["name"]: answers.broken.get(item["name"], "") for item in own}


def _local(context: Context, deep: bool) -> list[Entry]:
    rules = context.config.get("retention") or {}
    return [
        _entry(found, LOCAL, _days(rules.get(engine)))
        for engine in manifests.ENGINES
        for found in store.read(context.backup_dir, engine, deep)
    ]


def _remote(target: offsite.Target) -> list[Entry]:
    return [entry for engine in manifests.ENGINES for entry in remote_entries(target, engine)]


def remote_entries(target: offsite.Target, engine: str) -> list[Entry]:
    """Return the copies of an engine's backups in a place off site. Raises Refusal."""
    return [_entry(found, target.name, 0) for found in target.read(engine)]


def _days(rule: Mapping[str, int] | None) -> int:
    return rule["days"] if rule and set(rule) == {"days"} else 0


def _entry(found: store.Found, repository: str, days: int) -> Entry:
    if found.manifest is None:
        moment = manifests.seconds(
            re.sub(r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z.*$", r"\1-\2-\3T\4:\5:\6Z", found.label)
        )
        return catalogue.broken(
            found.engine, found.label, repository, found.path, moment=moment, problem="; ".join(found.problems)
        )
    return catalogue.from_manifest(
        found.manifest, repository, found.path, sha256=found.sha256, problems=found.problems, days=days
    )


def plan_retention(context: Context, engine: str) -> list[retention.Decision]:
    """Return what becomes of an engine's local backups. Raises Refusal for a rule that is none."""
    entry = (context.config.get("retention") or {}).get(engine)
    if not entry:
        return []
    rule = retention.parse_rule(entry, f"backup_retention: {engine}")
    return plan_items([_entry(item, LOCAL, 0) for item in store.read(context.backup_dir, engine)], context, rule)


def plan_items(entries: Sequence[Entry], context: Context, rule: retention.Rule) -> list[retention.Decision]:
    """Return what a rule makes of backups, with what drills said of them."""
    proofs, _faults = store.read_proofs(context.backup_dir)
    return retention.plan(catalogue.items(catalogue.with_proofs(entries, proofs)), rule, contexts.now().timestamp())


def limits(context: Context) -> dict[str, Limits]:
    """Return how old each engine's backups may be."""
    return {
        engine: Limits(float(entry.get("good", 0)), float(entry.get("proved", 0)))
        for engine, entry in (context.config.get("limits") or {}).items()
    }


def jobs(context: Context, path: str = contexts.JOBS) -> list[dict[str, Any]]:
    """Return every declared job with its last result and its next run, as plain data. Raises Refusal."""
    declared = declared_jobs(path)
    timers = next_runs() if declared else {}
    return [
        {
            "name": name,
            "kind": entry["kind"],
            "calendar": entry["calendar"],
            "since": entry["since"],
            "scheduled": f"{PREFIX}{name}.timer" in timers,
            "next": timers.get(f"{PREFIX}{name}.timer"),
            "last": (last := last_result(context, name)),
            "due": None if last else first_run(entry["calendar"], entry["since"]),
        }
        for name, entry in sorted(declared.items())
    ]


def first_run(calendar: str, since: float) -> float | None:
    """Return when a calendar elapses first after a time, both in seconds since 1970; None for never. Raises Refusal.

    A timer that has never run makes up for nothing: without its stamp systemd 257 begins with the next time, even where the machine was off
    at the one before (systemd.timer(5), Persistent=).
    """
    command = ["systemd-analyze", "calendar", f"--base-time=@{int(since)}", "--", calendar]
    return parse_elapse(contexts.run(command, environment={"LC_ALL": "C"}, seconds=TIMER_SECONDS))


def parse_elapse(text: str) -> float | None:
    """Return the next time in what `systemd-analyze calendar` printed, None for never.

    Calendars without a zone are of the host's, as its timers are. Where that is not UTC, systemd 257 adds a line in UTC.
    """
    match = re.search(r"(?:\(in UTC\)|Next elapse): \w+ (\d+-\d+-\d+ \d+:\d+:\d+) UTC", text)
    if match is None:
        return None
    return datetime.datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").replace(tzinfo=datetime.UTC).timestamp()


def next_runs() -> dict[str, float | None]:
    """Return when each timer that runs elapses next, in seconds since 1970. Raises Refusal."""
    command = ["systemctl", "list-timers", "--output=json", "--no-pager", f"{PREFIX}*.timer"]
    text = contexts.run(command, seconds=TIMER_SECONDS)
    try:
        return {entry["unit"]: entry["next"] / 1e6 if entry["next"] else None for entry in json.loads(text or "[]")}
    except (ValueError, KeyError, TypeError) as error:
        raise Refusal(f"systemctl list-timers can't be understood: {text[:200]!r}") from error


def declared_jobs(path: str = contexts.JOBS) -> dict[str, dict[str, Any]]:
    """Return the jobs that backup_schedule wrote, by name. Raises Refusal."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)["jobs"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError) as error:
        raise Refusal(f"{path}: {error}. Run site.yml.") from error


def last_result(context: Context, name: str) -> dict[str, Any] | None:
    """Return what a job's last run left; a run whose process is gone was interrupted."""
    try:
        with open(contexts.state_path(context, name), encoding="utf-8") as file:
            found = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        return {"state": "unreadable", "ok": False, "message": str(error)}
    if found.get("state") == "running" and not _is_alive(found):
        return {**found, "state": "interrupted", "ok": False, "message": "the run was ended from outside"}
    return found


def _is_alive(state: Mapping[str, Any]) -> bool:
    return process_start(state.get("pid", 0)) == state.get("process_start", "")


def process_start(pid: int) -> str:
    """Return what tells a process from another one of the same number, empty where there is none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return f"{boot}/{file.read().rsplit(')', 1)[1].split()[19]}"
    except (OSError, IndexError):
        return ""


def findings(context: Context, collected: Collected, found_jobs: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Return what is not as it should be with this host's backups, repositories and jobs."""
    moment = contexts.now().timestamp()
    since = min((job["since"] for job in found_jobs), default=moment)
    result = [
        _young(finding, limits(context), moment - since)
        for finding in catalogue.judge(collected.entries, limits(context), moment)
    ]
    for name, problem in sorted(collected.repositories.items()):
        if problem:
            result.append(
                Finding(
                    "backup_repository_unreachable",
                    "critical",
                    name,
                    " ".join(problem.split())[:400],
                    "a repository that answers",
                    "Check that it is up and reachable, and that the key is right.",
                )
            )
    for fault in collected.faults:
        result.append(
            Finding("backup_proof_unreadable", "warning", fault, "no verdict", "JSON", "Run restore_drill.yml.")
        )
    for name, gaps in sorted(collected.gaps.items()):
        if gaps:
            missing = "; ".join(gap.text for gap in gaps)
            result.append(
                Finding(
                    "backup_archive_gap",
                    "critical",
                    name,
                    f"WAL is missing: {missing}",
                    "every segment between the first and the last",
                    "Make a full backup now: a restore of an earlier one ends at the gap. pgBackRest itself reports ok.",
                )
            )
    for job in found_jobs:
        result += _judge_job(job, moment)
    return result


def _young(finding: Finding, wanted: Mapping[str, Limits], span: float) -> Finding:
    """A schedule that is younger than its limit can't be late yet; what is missing is reported anyway."""
    limit = wanted[finding.where]
    allowed = {"backup_overdue": limit.good, "backup_unproved": limit.proved}.get(finding.rule, 0)
    if span >= allowed:
        return finding
    return Finding(**{**to_dict(finding), "severity": "info"})


def _judge_job(job: Mapping[str, Any], moment: float) -> list[Finding]:
    last = job["last"]
    if not job["scheduled"]:
        return [
            Finding("backup_job_off", "critical", job["name"], "its timer is not active", "active", "Run site.yml.")
        ]
    due = job.get("due")
    if not last and due is not None and moment > due + LATE_SECONDS:
        when = datetime.datetime.fromtimestamp(due, datetime.UTC).isoformat(timespec="minutes")
        found = f"it has never run, and was to run first at {when}"
        remedy = f"Run it now: systemctl start holdfast-backup-{job['name']}.service. A timer that never ran makes up for nothing."
        return [Finding("backup_job_never_ran", "warning", job["name"], found, "a first run on schedule", remedy)]
    if last and not last.get("ok") and last.get("state") != "running":
        return [
            Finding(
                "backup_job_failed",
                "warning",
                job["name"],
                " ".join(str(last.get("message", "")).split())[:400],
                "a last run that succeeded",
                f"Remove the cause, then run: systemctl start holdfast-backup-{job['name']}.service.",
            )
        ]
    return []


def metrics(context: Context, collected: Collected, found_jobs: Sequence[Mapping[str, Any]]) -> str:
    """Return what Prometheus reads."""
    engines = sorted({*limits(context), *(entry.engine for entry in collected.entries)})
    ended = [
        {"name": job["name"], "ok": job["last"]["ok"], "end": manifests.seconds(job["last"]["end"])}
        for job in found_jobs
        if job["last"] and job["last"].get("end")
    ]
    up = {name: not problem for name, problem in collected.repositories.items()}
    return catalogue.metrics(collected.entries, engines, contexts.now().timestamp(), up, ended)
