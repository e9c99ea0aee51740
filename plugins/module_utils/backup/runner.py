# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Runs one job: decides whether it is this host's now, holds its lock, calls its engine, and leaves the result to read."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import catalogue, collect, offsite, store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# The code of each kind, which raises Refusal.
Engines = Mapping[str, Callable[[Context, Job], Result]]
# What no two jobs use at a time. A drill reads the stores, and nothing may be deleted meanwhile.
RESOURCES = {
    "pgbackrest": ["postgresql"],
    "logical": ["logical"],
    "valkey": ["valkey"],
    "events": ["events"],
    "drill": ["drill"],
}
STORE = "store"
READS_STORE = frozenset({"drill", "upload"})


def run(context: Context, job: Job, engines: Engines, force: bool = False) -> Result:
    """Run a job and write its result.

    Parameters: engines, for kinds of jobs that need more than files; force, also where another host's turn is. Raises Refusal.
    """
    try:
        with _told(context, job) as told:
            reason = "" if force else _not_here(context, job)
            if reason:
                told["result"] = Result(reason, {}, skipped=True)
            else:
                told["result"] = _locked(context, job, engines)
    finally:
        # A failure, too, is to be told at once.
        _after(context, job)
    return told["result"]


def _not_here(context: Context, job: Job) -> str:
    if job.where == "here":
        return ""
    member = context.section("patroni").get("member")
    if not member:
        raise Refusal(f"job {job.name}: where is {job.where}, but this host has no PostgreSQL; use here")
    return contexts.reason_to_skip(contexts.look(context), member, job.where)


def _locked(context: Context, job: Job, engines: Engines) -> Result:
    who = f"job {job.name}"
    with contextlib.ExitStack() as held:
        for resource in RESOURCES.get(job.kind, []):
            held.enter_context(contexts.lock(resource, job.wait, who))
        if job.kind in READS_STORE:
            held.enter_context(contexts.lock(STORE, job.wait, who, shared=True))
        return _function(job, engines)(context, job)


def _function(job: Job, engines: Engines) -> Callable[[Context, Job], Result]:
    known = {"prune": prune, "upload": offsite.upload, "metrics": _metrics, **engines}
    if job.kind not in known:
        raise Refusal(
            f"jobs of the kind {job.kind} can't run here: this program knows {', '.join(sorted(known))}. Run site.yml."
        )
    return known[job.kind]


@contextlib.contextmanager
def _told(context: Context, job: Job) -> Iterator[dict[str, Result]]:
    """Write that a job runs, and how it ended, for whoever asks later."""
    begun: dict[str, Any] = {
        "job": job.name,
        "kind": job.kind,
        "set": context.set,
        "start": contexts.stamp(),
        "pid": os.getpid(),
        "process_start": collect.process_start(os.getpid()),
    }
    contexts.write_state(context, job.name, {**begun, "state": "running", "ok": False, "message": "runs"})
    told: dict[str, Result] = {}
    try:
        yield told
    except BaseException as error:
        known = isinstance(error, Refusal)
        message = str(error) if known else f"{type(error).__name__}: {error}"
        ended = {"state": "failed", "ok": False, "end": contexts.stamp(), "message": message}
        contexts.write_state(context, job.name, {**begun, **ended})
        raise
    result = told["result"]
    ended = {
        "state": "skipped" if result.skipped else "done",
        "ok": True,
        "end": contexts.stamp(),
        "message": result.message,
        "labels": {engine: list(labels) for engine, labels in result.labels.items()},
        "bytes": result.bytes,
    }
    contexts.write_state(context, job.name, {**begun, **ended})


def where(context: Context) -> str:
    """Return where jobs of this host that are made by hand run: on a PostgreSQL host only where the primary is."""
    return "primary" if (context.config.get("patroni") or {}).get("member") else "here"


def jobs_for_now(engines: list[str], kind: str, upload: bool, place: str) -> list[Job]:
    """Return a job for each engine, and one for the copies. Raises Refusal for an unknown engine."""
    kinds: dict[str, tuple[str, dict[str, Any]]] = {
        "postgresql": ("pgbackrest", {"type": kind}),
        "logical": ("logical", {}),
        "valkey": ("valkey", {}),
    }
    unknown = [name for name in engines if name not in kinds]
    if unknown:
        raise Refusal(f"engine {unknown[0]!r}: allowed are {', '.join(kinds)}")
    wanted = [kinds[name] for name in engines] + ([("upload", {})] if upload else [])
    return [
        Job(f"now-{name}", name, "daily", where=place if name == "pgbackrest" else "here", options=options)
        for name, options in wanted
    ]


def end_on_signals() -> None:
    """Turn a request to end into an error, so that what was begun is put away."""

    def end(number: int, _frame: object) -> None:
        raise Refusal(f"ended by signal {signal.Signals(number).name}")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)


def _after(context: Context, job: Job) -> None:
    """Have the metrics tell of the job. Where they can't, that is no verdict on the job."""
    if job.kind == "metrics" or not context.config.get("metrics_file"):
        return
    try:
        _metrics(context, job)
    except (Refusal, OSError) as error:
        sys.stderr.write(f"holdfast-backup: the metrics could not be written: {error}\n")


def _metrics(context: Context, _job: Job) -> Result:
    path = context.config.get("metrics_file")
    if not path:
        return Result("no metrics file is declared", {}, skipped=True)
    make_folders(os.path.dirname(path))
    replace_file(path, collect.metrics(context, collect.collect(context), collect.jobs(context)), mode=0o644)
    return Result(f"wrote {path}", {})


def prune(context: Context, job: Job) -> Result:
    """Delete what no rule keeps, here and off site. Raises Refusal."""
    gone: dict[str, list[str]] = {}
    size = 0
    for engine in job.options.get("engines") or list(manifests.ENGINES):
        with contexts.lock(engine, job.wait, f"job {job.name}"), contexts.lock(STORE, job.wait, f"job {job.name}"):
            store.sweep(context.backup_dir, engine)
            for label, reason in doomed(context, engine):
                found = store.look(context.backup_dir, engine, label)
                store.remove(context.backup_dir, engine, label, reason, contexts.stamp())
                gone.setdefault(engine, []).append(label)
                size += found.manifest.bytes if found.manifest else 0
            for target in offsite.targets(context):
                gone.setdefault(engine, []).extend(_prune_target(context, target, engine))
    return Result(f"{sum(map(len, gone.values()))} deleted", gone, size)


def doomed(context: Context, engine: str) -> list[tuple[str, str]]:
    """Return the local backups that no rule keeps, with the reason."""
    return [(item.label, item.reason) for item in collect.plan_retention(context, engine) if not item.keep]


def doomed_off_site(context: Context, target: offsite.Target, engine: str) -> list[tuple[str, str]]:
    """Return the copies that their place's rule does not keep, with the reason."""
    rule = offsite.rule_of(context, target.name, engine)
    if rule is None:
        return []
    plan = collect.plan_items(collect.remote_entries(target, engine), context, rule)
    return [(item.label, item.reason) for item in plan if not item.keep]


def _prune_target(context: Context, target: offsite.Target, engine: str) -> list[str]:
    labels = []
    for label, reason in doomed_off_site(context, target, engine):
        event = {
            "time": contexts.stamp(),
            "engine": engine,
            "label": label,
            "repository": target.name,
            "reason": reason,
        }
        store.record(context.backup_dir, event)
        target.remove(engine, label)
        labels.append(f"{target.name}/{label}")
    target.sweep(engine, store.labels(context.backup_dir, engine))
    return labels


def preview(context: Context, job: Job) -> dict[str, list[dict[str, str]]]:
    """Return what prune would delete, and touch nothing."""
    result: dict[str, list[dict[str, str]]] = {}
    for engine in job.options.get("engines") or list(manifests.ENGINES):
        found = [
            {"label": label, "repository": collect.LOCAL, "reason": reason} for label, reason in doomed(context, engine)
        ]
        for target in offsite.targets(context):
            found += [
                {"label": label, "repository": target.name, "reason": reason}
                for label, reason in doomed_off_site(context, target, engine)
            ]
        result[engine] = found
    return result


def report(context: Context, deep: bool = False) -> dict[str, Any]:
    """Return everything there is to know of this host's backups, as plain data."""
    collected = collect.collect(context, deep)
    found_jobs = collect.jobs(context)
    return {
        "cluster": context.cluster,
        "time": contexts.stamp(),
        "backups": [catalogue.to_dict(entry) for entry in collected.entries],
        "repositories": dict(collected.repositories),
        "jobs": found_jobs,
        "findings": [finding.__dict__ for finding in collect.findings(context, collected, found_jobs)],
        "summary": summary(context, collected),
    }


def summary(context: Context, collected: collect.Collected) -> list[dict[str, Any]]:
    """Return for each engine its last good and its last proved backup."""
    engines = sorted({*collect.limits(context), *(entry.engine for entry in collected.entries)})
    result: list[dict[str, Any]] = []
    for engine in engines:
        good = catalogue.last_good(collected.entries, engine)
        proved = catalogue.last_proved(collected.entries, engine)
        result.append(
            {
                "engine": engine,
                "good": catalogue.to_dict(good) if good else None,
                "proved": catalogue.to_dict(proved) if proved else None,
                "count": sum(entry.good for entry in collected.entries if entry.engine == engine),
            }
        )
    return result
