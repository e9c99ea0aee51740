# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0
"""Back up, restore and look, on this host and without any controller. systemd's timers call it, and so may you."""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import (
    collect,
    context,
    drill,
    jobs,
    logical,
    offsite,
    physical,
    physical_drill,
    restore,
    runner,
    store,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.wish import parse_wish
from ansible_collections.holdfast.persistence.plugins.module_utils.events import drill as events_drill
from ansible_collections.holdfast.persistence.plugins.module_utils.events import job as events
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup_job
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import drill as valkey_drill

DRILLS = {"postgresql": physical_drill.drill, "valkey": valkey_drill.drill, "events": events_drill.drill}
ENGINES = {
    "pgbackrest": physical.run,
    "logical": logical.run,
    "valkey": backup_job.run,
    "events": events.run,
    "drill": functools.partial(drill.run, DRILLS),
}


def job_of(options: argparse.Namespace) -> Job:
    """Return the declared job of a name, or one that the command line describes. Raises Refusal."""
    if options.kind:
        given = json.loads(options.options)
        return jobs.parse_one({"name": options.name, "kind": options.kind, "calendar": "daily", "options": given})
    found = collect.declared_jobs().get(options.name)
    if found is None:
        names = ", ".join(sorted(collect.declared_jobs())) or "none"
        raise Refusal(f"there is no job {options.name} on this host; there are {names}")
    return jobs.parse_one({key: value for key, value in found.items() if key != "since"})


def run(host: Context, options: argparse.Namespace) -> object:
    """Run a job now."""
    runner.end_on_signals()
    return told(runner.run(Context(host.config, options.set), job_of(options), ENGINES, force=options.force))


def now(host: Context, options: argparse.Namespace) -> object:
    """Back up several engines now as one set; one that fails does not keep the others from it."""
    runner.end_on_signals()
    shared = Context(host.config, options.set or context.now().strftime("%Y%m%dT%H%M%SZ"))
    made: dict[str, dict] = {}
    errors = []
    for job in runner.jobs_for_now(options.engines.split(","), options.type, options.upload, runner.where(host)):
        try:
            made[job.kind] = told(runner.run(shared, job, ENGINES))
        except Refusal as error:
            errors.append(f"{job.kind}: {error}")
    if errors:
        raise Refusal(f"set {shared.set} is not whole. {'; '.join(errors)}. Made: {json.dumps(made)}")
    return {"set": shared.set, "made": made, "skipped": all(entry["skipped"] for entry in made.values())}


def told(result: Result) -> dict:
    """Return a result as plain data."""
    return {
        "message": result.message,
        "labels": {engine: list(labels) for engine, labels in result.labels.items()},
        "bytes": result.bytes,
        "skipped": result.skipped,
    }


def status(host: Context, _options: argparse.Namespace) -> object:
    """Tell of every job: its last result and its next run."""
    return collect.jobs(host)


def catalogue(host: Context, options: argparse.Namespace) -> object:
    """Tell of every backup of every engine in every place."""
    return runner.report(host, deep=options.deep)


def prune(host: Context, options: argparse.Namespace) -> object:
    """Delete what no rule keeps, or tell what that would be."""
    job = jobs.parse_one({"name": "prune-by-hand", "kind": "prune", "calendar": "daily", "options": {}})
    if options.dry_run:
        return runner.preview(host, job)
    runner.end_on_signals()
    return run(host, argparse.Namespace(name=job.name, kind="prune", options="{}", set="", force=True))


def verify(host: Context, options: argparse.Namespace) -> object:
    """Read every local backup whole and compare it with its digests."""
    report = runner.report(host, deep=True)
    wrong = [entry for entry in report["backups"] if not entry["good"]]
    if wrong:
        raise Refusal("; ".join(f"{entry['location']}: {entry['problem']}" for entry in wrong))
    return {"good": len(report["backups"])}


def fetch(host: Context, options: argparse.Namespace) -> object:
    """Bring a backup back from off site."""
    (target,) = offsite.targets(host, [options.target])
    with context.lock(options.engine, 600, "fetch"):
        return {"path": target.get(options.engine, options.label, host.backup_dir)}


def restore_logical(host: Context, options: argparse.Namespace) -> object:
    """Restore a dump, or one database or table of a physical backup."""
    runner.end_on_signals()
    wish = parse_wish(json.loads(sys.stdin.read()))
    with context.lock(runner.STORE, 600, "restore", shared=True), context.lock("restore", 5, "restore"):
        return restore.run(host, wish, check=options.check)


def events_export(host: Context, options: argparse.Namespace) -> object:
    """Export an event store or a journal, or a range of it, into an archive."""
    runner.end_on_signals()
    wish = json.loads(sys.stdin.read())
    with context.lock(events.ENGINE, 600, "export"):
        made = events.make(Context(host.config, options.set), wish, check=options.check)
    if not isinstance(made, events.Made):
        return {**made, "changed": True}
    return {**events.told(made), "changed": made.fresh}


def events_import(host: Context, options: argparse.Namespace) -> object:
    """Import an archive into an event store or a journal of the primary."""
    runner.end_on_signals()
    wish = json.loads(sys.stdin.read())
    with context.lock(runner.STORE, 600, "import", shared=True), context.lock("restore", 5, "import"):
        return events.bring(host, wish, check=options.check)


def deletions(host: Context, _options: argparse.Namespace) -> object:
    """Tell what was deleted, when and why."""
    try:
        with open(os.path.join(host.backup_dir, store.DELETIONS), encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.endswith("\n")]
    except FileNotFoundError:
        return []


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(prog="holdfast-backup", description=__doc__)
    found.add_argument("--config", default=context.CONFIG)
    commands = found.add_subparsers(required=True, dest="command")

    def add(name, function):
        command = commands.add_parser(name, help=function.__doc__, description=function.__doc__)
        command.set_defaults(function=function)
        return command

    job = add("run", run)
    job.add_argument("name")
    job.add_argument("--set", default="", help="id that the backups of all engines share")
    job.add_argument("--kind", default="", help="run a job of this kind that is not declared")
    job.add_argument("--options", default="{}", help="its options as JSON")
    job.add_argument("--force", action="store_true", help="also where it is another host's turn")
    everything = add("now", now)
    everything.add_argument("--set", default="", help="id of the set, the time if not given")
    everything.add_argument("--type", choices=["full", "diff", "incr"], default="full", help="of the physical backup")
    everything.add_argument("--engines", default="postgresql,logical,valkey")
    everything.add_argument("--upload", action="store_true", help="carry it off site, too")
    add("status", status)
    add("catalogue", catalogue).add_argument("--deep", action="store_true", help="compare contents with their digests")
    add("prune", prune).add_argument("--dry-run", action="store_true", help="tell what would be deleted")
    add("verify", verify)
    add("deletions", deletions)
    copy = add("fetch", fetch)
    for name in ("target", "engine", "label"):
        copy.add_argument(name)
    export = add("events-export", events_export)
    export.add_argument("--set", default="", help="id that the backups of all engines share")
    for command in (export, add("events-import", events_import)):
        command.add_argument("--check", action="store_true", help="tell what would be done")
    add("restore", restore_logical).add_argument("--check", action="store_true", help="tell what would be done")
    return found


def main() -> int:
    """Run the program."""
    options = parser().parse_args()
    try:
        print(json.dumps(options.function(context.load(options.config), options), indent=1))
    except (Refusal, OSError) as error:
        print(f"holdfast-backup: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
