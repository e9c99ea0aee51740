# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Exports and imports of event stores and journals on a backup host: by a timer, by a playbook, and as a drill."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import logical
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.dump import RESTORER
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.events import (
    akka,
    akka_export,
    akka_load,
    export,
    load,
    ranges,
    target,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.events import archive as archives
from ansible_collections.holdfast.persistence.plugins.module_utils.events.export import Made, Order, Place
from ansible_collections.holdfast.persistence.plugins.module_utils.events.psql import Reach, SqlError
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Member
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

ENGINE = export.ENGINE
told = export.told
_SELECTION = ("since", "until", "tenants", "types", "archived")


def run(context: Context, job: Job) -> Result:
    """Export what a job names; each run makes an archive of its own. Raises Refusal."""
    options = dict(job.options)
    days = options.pop("days", 0)
    if days:
        today = contexts.now().replace(hour=0, minute=0, second=0, microsecond=0)
        options["until"] = today.isoformat()
        options["since"] = (today - datetime.timedelta(days=days)).isoformat()
    made = make(context, {"archive": job.name, **options}, again=True)
    if not isinstance(made, Made):
        raise Refusal("an export by a job has no check mode")
    number = made.archive.totals.get("events", made.archive.totals.get("journal", 0))
    return Result(f"{number} events of {made.archive.source['database']}", {ENGINE: [made.label]}, made.bytes)


def order_of(wish: Mapping[str, Any]) -> tuple[str, Order]:
    """Return kind and order of what an operator wrote. Raises Refusal."""
    kind = wish.get("kind") or archives.MARTEN
    name = archives.check_name(wish.get("archive") or "")
    parallel, rate = int(wish.get("parallel") or 2), int(wish.get("rate") or 0)
    if kind == archives.AKKA:
        mapping = wish.get("mapping") or "default"
        schema, snapshot_schema = akka.schemas(mapping, wish.get("schema") or "", wish.get("snapshot_schema") or "")
        more = {"mapping": mapping, "snapshot_schema": snapshot_schema}
        return kind, Order(name, schema, parallel=parallel, rate=rate, more=more)
    if kind != archives.MARTEN:
        raise Refusal(f"kind is {kind!r}; allowed are {archives.MARTEN}, {archives.AKKA}")
    form = wish.get("format") or "archive"
    if form not in archives.ENCODINGS:
        raise Refusal(f"format is {form!r}; allowed are {', '.join(archives.ENCODINGS)}")
    return kind, Order(
        name,
        wish.get("schema") or "events",
        ranges.selection(**{name: wish[name] for name in _SELECTION if wish.get(name)}),
        format=form,
        documents=wish.get("documents", True),
        carry=tuple(wish.get("carry") or ()),
        parallel=parallel,
        rate=rate,
    )


def make(
    context: Context, wish: Mapping[str, Any], *, check: bool = False, again: bool = False
) -> Made | dict[str, Any]:
    """Export what is wished from the member that suits it best; with again, beside an archive of that name. Raises Refusal."""
    if not wish.get("database"):
        raise Refusal("the database of the store is not named")
    kind, order = order_of(wish)
    cluster = contexts.wait_for_leader(context, 60)
    errors = []
    for member in contexts.sources(cluster, wish.get("source") or "replica"):
        try:
            place = Place(context.backup_dir, context.cluster, context.set, again)
            writer = akka_export.export if kind == archives.AKKA else export.export
            return writer(_reach(context, member, wish["database"]), place, order, check=check)
        except SqlError as error:
            # A replica may cancel a long read, or fall over: the next member continues with what is written.
            errors.append(f"{member.name}: {error}")
    raise Refusal(f"the export of {wish['database']} failed on every member: {'; '.join(errors) or 'none is healthy'}")


def _reach(context: Context, member: Member, database: str, user: str = "", password: str = "") -> Reach:
    postgresql = context.section("postgresql")
    return Reach(
        bin_dir=postgresql["bin_dir"],
        host=member.host,
        port=int(postgresql["port"]),
        user=user or postgresql["user"],
        database=database,
        environment=logical.environment(context, password),
    )


def bring(context: Context, wish: Mapping[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Import an archive into a database of the primary; return what was done. Raises Refusal."""
    if not wish.get("database"):
        raise Refusal("the database of the store is not named")
    leader = contexts.wait_for_leader(context, 30).leader
    if leader is None:
        raise Refusal("the cluster lost its leader at this moment", "Run it again")
    name = wish.get("archive") or ""
    with export.in_words(f"archive {name}"):
        label = export.require(context.backup_dir, name)
        archive, folder = export.load(context.backup_dir, label)
    password = wish.get("password") or ""
    reach = _reach(context, leader, wish["database"], RESTORER if password else "", password)
    if (wish.get("kind") or archives.MARTEN) == archives.AKKA:
        names = ("mapping", "schema", "snapshot_schema", "ordering", "on_conflict")
        chosen = akka_load.Wish(**_given(wish, names, {"mapping": "default"}))
        journal = akka_load.load(reach, archive, folder, chosen, check=check)
        return {"label": label, "primary": leader.name, "changed": journal.changed, **journal.__dict__}
    names = ("schema", "mode", "on_conflict", "rebuild_keys", "documents")
    locks = tuple(int(lock) for lock in wish.get("accept_locks") or ())
    store = target.Wish(**_given(wish, names, {"schema": "events"}), accept_locks=locks)
    outcome = load.load(reach, archive, folder, store, check=check)
    return {"label": label, "primary": leader.name, "changed": outcome.changed, **outcome.__dict__}


def _given(wish: Mapping[str, Any], names: Sequence[str], usual: Mapping[str, Any]) -> dict[str, Any]:
    allowed = {
        "mode": (target.PRESERVE, target.APPEND),
        "on_conflict": (target.REFUSE, target.SKIP),
        "ordering": (akka.DENSE, akka.KEEP),
    }
    found = {**usual, **{name: wish[name] for name in names if wish.get(name) not in (None, "")}}
    for name, values in allowed.items():
        if found.get(name, values[0]) not in values:
            raise Refusal(f"{name} is {found[name]!r}; allowed are {', '.join(values)}")
    return found
