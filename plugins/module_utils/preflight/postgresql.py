# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about databases, pg_hba lines and pools. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.databases import (
    READ_ONLY_SUFFIX,
    SESSION_SUFFIX,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Host,
    Inventory,
    Problem,
    as_int,
    count,
    rule,
)

# The left side of a line in PgBouncer's [databases]: its parser takes these (lib/usual/cfparser.c), or a quoted name.
_POOL_READS = (
    "patroni_databases",
    "patroni_max_connections",
    "patroni_users",
    "pgbouncer_databases",
    "pgbouncer_default_pool_size",
    "pgbouncer_max_database_connections",
    "pgbouncer_reserve_pool_size",
    "pgbouncer_session_databases",
    "pgbouncer_session_max_connections",
    "pgbouncer_session_pool_size",
)
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\Z")
# NAMEDATALEN of PostgreSQL, less the end.
_LONGEST_NAME = 63
_RESERVED_DATABASES = {"pgbouncer": "PgBouncer's own console", "postgres": "the database of administration"}
# Of max_connections, for Patroni, the lookup of passwords, checks and backups; beside superuser_reserved_connections.
_OTHERS = 15
_SUPERUSER_RESERVED = 3
_HBA_METHODS = frozenset(
    [
        "trust",
        "reject",
        "scram-sha-256",
        "md5",
        "password",
        "gss",
        "sspi",
        "ident",
        "peer",
        "ldap",
        "radius",
        "cert",
        "pam",
        "bsd",
        "oauth",
    ]
)
_HBA_TYPES = frozenset(("local", "host", "hostssl", "hostnossl", "hostgssenc", "hostnogssenc"))
# Who may not be kept out: Patroni's superuser, replication, and the user that rewinds and checks.
_SYSTEM_USERS = frozenset(("postgres", "replicator", "rewinder", "pgbouncer"))


@rule("database_name", reads=("patroni_databases",))
def database_names(inventory: Inventory) -> Iterator[Problem]:
    """Refuse names of databases that PgBouncer's file can't hold, that PostgreSQL would cut, or that mean something else."""
    for host in inventory.members("postgresql", "balancer"):
        for path, name, alias in _names(host):
            fault = _name_fault(name, alias)
            if fault:
                yield Problem(
                    rule="database_name",
                    hosts=(host.name,),
                    subject=path,
                    found=f"the name {name!r}, {fault}",
                    allowed="letters, digits, underscores, dots and dashes, at most 63, not beginning with a dot or dash",
                    remedy="choose another name",
                )


@rule("database_shadowed", reads=("patroni_databases", "pgbouncer_databases", "pgbouncer_read_only_databases"))
def shadowed_databases(inventory: Inventory) -> Iterator[Problem]:
    """Refuse a database whose name PgBouncer answers with another one, such as orderdb_ro beside orderdb."""
    for host in inventory.members("postgresql", "balancer"):
        declared = _database_names(host)
        for alias, target in sorted(_aliases(host, declared).items()):
            if alias in declared and alias != target:
                yield Problem(
                    rule="database_shadowed",
                    hosts=(host.name,),
                    subject="patroni_databases",
                    found=f"the database {alias}, whose name the pools answer with {target}",
                    allowed="a name that leads to its own database",
                    remedy=f"rename it, or give the pools of {target} other names: take {target} out of pgbouncer_read_only_databases or "
                    "pgbouncer_session_databases, "
                    "or correct the entry of pgbouncer_databases",
                )


def _database_names(host: Host) -> list[str]:
    return [
        str(item["name"])
        for item in _list(host.value("patroni_databases"))
        if isinstance(item, Mapping) and item.get("name")
    ]


def _aliases(host: Host, declared: list[str]) -> dict[str, str]:
    """Return which database each name in PgBouncer's file leads to, as module_utils/pgbouncer/databases.py makes them."""
    readable = host.value("pgbouncer_read_only_databases", declared)
    found = {f"{name}{READ_ONLY_SUFFIX}": str(name) for name in (readable if isinstance(readable, list) else declared)}
    found |= {f"{name}{SESSION_SUFFIX}": name for name in _session_databases(host)}
    for item in _list(host.value("pgbouncer_databases")):
        if isinstance(item, Mapping) and item.get("name"):
            found[str(item["name"])] = str(item.get("database") or item["name"])
    return found


def _names(host: Host) -> Iterator[tuple[str, str, bool]]:
    """Yield (path, name, whether it is a name in PgBouncer's file alone)."""
    for variable, alias in (("patroni_databases", False), ("pgbouncer_databases", True)):
        value = host.value(variable, [])
        for index, item in enumerate(value if isinstance(value, list) else []):
            if isinstance(item, Mapping) and item.get("name") is not None:
                yield f"{variable}[{index}].name", str(item["name"]), alias


def _name_fault(name: str, alias: bool) -> str:
    if len(name.encode()) > _LONGEST_NAME:
        return f"which has {len(name.encode())} bytes"
    if not _PLAIN_NAME.match(name):
        return "which a line of PgBouncer's file can't begin with"
    if name in _RESERVED_DATABASES and (alias or name == "pgbouncer"):
        return f"which is {_RESERVED_DATABASES[name]}"
    return ""


@rule("hba_line", reads=("patroni_hba",))
def hba_lines(inventory: Inventory) -> Iterator[Problem]:
    """Refuse lines of patroni_hba that PostgreSQL can't read, or that would keep the cluster itself out."""
    for host in inventory.members("postgresql"):
        lines = host.value("patroni_hba", [])
        for index, line in enumerate(lines if isinstance(lines, list) else []):
            fault = hba_fault(str(line))
            if fault:
                yield Problem(
                    rule="hba_line",
                    hosts=(host.name,),
                    subject=f"patroni_hba[{index}]",
                    found=f"{str(line)!r}: {fault}",
                    allowed="TYPE DATABASE USER [ADDRESS] METHOD, for users of applications; the role writes the cluster's own lines",
                    remedy="correct or remove the line",
                )


def hba_fault(line: str) -> str:
    """Say what is wrong with one line of pg_hba.conf (https://www.postgresql.org/docs/17/auth-pg-hba-conf.html)."""
    words = line.split()
    if not words or words[0].startswith("#"):
        return "no rule"
    if words[0].startswith("include"):
        return "an include, whose lines nobody checks"
    if words[0] not in _HBA_TYPES:
        return f"the type {words[0]} is none of {', '.join(sorted(_HBA_TYPES))}"
    method, fault = _hba_method(words)
    return fault or _hba_lockout(words, method)


def _hba_method(words: list[str]) -> tuple[str, str]:
    """Return (method, what is wrong)."""
    place = 3 if words[0] == "local" else 4
    # An address may be two words: address and mask.
    if place == 4 and len(words) > 5 and re.fullmatch(r"[0-9.]+|[0-9a-fA-F:]+", words[4]):
        place = 5
    if len(words) <= place:
        return "", f"{count(len(words), 'word')}, at least {place + 1} are needed"
    if words[place] not in _HBA_METHODS:
        return "", f"the method {words[place]} is none of {', '.join(sorted(_HBA_METHODS))}"
    return words[place], ""


def _hba_lockout(words: list[str], method: str) -> str:
    databases, users = set(words[1].split(",")), set(words[2].split(","))
    if "replication" in databases:
        # The cluster's own lines stand before and decide for its own members; a line for others would let strangers copy it.
        return "replication is the cluster's own: this line would lock it out or let others in"
    if users & _SYSTEM_USERS:
        return f"{', '.join(sorted(users & _SYSTEM_USERS))}: users of the cluster itself have lines of their own"
    if words[0] == "local" and "all" in users:
        return "local connections of all users are decided by the cluster's own lines"
    if "all" in users and "all" in databases and method == "reject" and _is_everywhere(words):
        return "it would lock out everybody, the pools of the balancers as well"
    if "all" in users and method == "trust":
        return "trust for all users lets everybody in as the superuser"
    return ""


def _is_everywhere(words: list[str]) -> bool:
    return len(words) > 3 and words[3] in {"all", "0.0.0.0/0", "::/0"}


@rule("pool_size", "pool_sizes", reads=_POOL_READS)
def pool_sizes(inventory: Inventory) -> Iterator[Problem]:
    """Compare what all PgBouncers together may open with what PostgreSQL takes."""
    balancers = inventory.members("balancer")
    servers = inventory.members("postgresql")
    if not balancers or not servers:
        return
    taken = as_int(servers[0].value("patroni_max_connections"))
    if taken is None:
        return
    free = taken - _SUPERUSER_RESERVED - _OTHERS
    pools = {host.name: _pools_of(host) for host in balancers}
    largest = sum(largest for largest, _all in pools.values())
    everything = sum(all_of for _largest, all_of in pools.values())
    what = f"max_connections {taken} less {_SUPERUSER_RESERVED + _OTHERS} for Patroni, checks and administration"
    if largest > free:
        yield Problem(
            rule="pool_size",
            hosts=tuple(pools),
            subject="pgbouncer_max_database_connections",
            found=f"{largest} connections that the pools of one database may open on {count(len(pools), 'balancer')}"
            + _sessions(balancers),
            allowed=f"at most {free}: {what}",
            remedy="lower it, pgbouncer_session_max_connections or pool sizes, or raise patroni_max_connections",
        )
    elif everything > free:
        yield Problem(
            rule="pool_sizes",
            hosts=tuple(pools),
            subject="pgbouncer_max_database_connections",
            found=f"{everything} connections that the pools of all declared databases may open together",
            allowed=f"at most {free}, where all are busy at once: {what}",
            remedy="lower it or pool sizes, or raise patroni_max_connections",
            warning=True,
        )


def _pools_of(host: Host) -> tuple[int, int]:
    """Return the connections to the primary that the pools of (one database, all declared databases) may take; 0 limits nothing.

    A database's pools are all that lead to it: under its own name, as sessions, and under names of the operator.
    """
    limit = as_int(host.value("pgbouncer_max_database_connections")) or 0
    size = (as_int(host.value("pgbouncer_default_pool_size")) or 0) + (
        as_int(host.value("pgbouncer_reserve_pool_size")) or 0
    )
    users = max(1, len(_list(host.value("patroni_users"))))
    usual = min(limit, size * users) if limit else size * users
    own = [item for item in _list(host.value("pgbouncer_databases")) if isinstance(item, Mapping)]
    names = set(_real_databases(host)) - {str(item.get("name")) for item in own}
    sums = dict.fromkeys(names, usual)
    for item in own:
        if item.get("target", "read_write") == "read_write":
            name = str(item.get("database") or item.get("name"))
            sums[name] = sums.get(name, 0) + (as_int(item.get("max_connections")) or usual)
    taken = {str(item.get("name")) for item in own} | set(_real_databases(host))
    for name in _session_databases(host):
        if f"{name}{SESSION_SUFFIX}" not in taken:
            sums[name] = sums.get(name, 0) + _session_connections(host, users)
    return max(sums.values(), default=usual), sum(sums.values())


def _sessions(balancers: Sequence[Host]) -> str:
    """Say how many of the connections are sessions', nothing where none is."""
    users = {host.name: max(1, len(_list(host.value("patroni_users")))) for host in balancers}
    found = sum(_session_connections(host, users[host.name]) for host in balancers if _session_databases(host))
    return f", {found} of them for sessions" if found else ""


def _real_databases(host: Host) -> list[str]:
    return [str(item.get("name")) for item in _list(host.value("patroni_databases")) if isinstance(item, Mapping)]


def _session_databases(host: Host) -> list[str]:
    """Return the databases that have session pools. The role's default is a template, which stands for all declared ones."""
    wished = host.value("pgbouncer_session_databases")
    return [str(name) for name in wished] if isinstance(wished, list) else _real_databases(host)


def _session_connections(host: Host, users: int) -> int:
    """Return how many sessions one database may have on a balancer."""
    size = (as_int(host.value("pgbouncer_session_pool_size")) or 0) * users
    limit = as_int(host.value("pgbouncer_session_max_connections")) or 0
    return min(size, limit) if limit else size


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
