# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Whether a standalone PostgreSQL can be taken into a cluster by letting the cluster follow it first. No I/O.

Sources: PostgreSQL's manual, "Hot Standby" (settings that a standby must not have lower), "Unlogged tables", "pg_hba.conf";
postgresql-common's pg_lsclusters and start.conf.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# A standby refuses to start, or stops replaying, where one of these is lower than on its primary.
NOT_LOWER = (
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_worker_processes",
)
# What an operator may accept, by the word that stands in the problem.
ACCEPTABLE = ("altered", "certificate", "collation", "md5", "slots", "unlogged")
# What stands for a setting that the cluster doesn't declare.
UNDECLARED = 1 << 30
OWN_MARK = "holdfast.persistence"
SNAKEOIL = "/etc/ssl/certs/ssl-cert-snakeoil.pem"
SETTINGS = (
    *NOT_LOWER,
    "hba_file",
    "listen_addresses",
    "password_encryption",
    "shared_preload_libraries",
    "ssl",
    "ssl_cert_file",
    "wal_level",
)


@dataclass(frozen=True)
class Listed:
    """A line of pg_lsclusters."""

    version: str
    name: str
    port: int
    status: str
    data_dir: str

    @property
    def is_online(self) -> bool:
        """Whether it runs and is not a standby."""
        return self.status == "online"


@dataclass(frozen=True)
class Server:
    """What the standalone server says of itself. unlogged: tables by database; collations: version by database."""

    version: str
    replica: bool
    settings: Mapping[str, str]
    altered: tuple[str, ...] = ()
    md5: tuple[str, ...] = ()
    slots: tuple[str, ...] = ()
    tablespaces: tuple[str, ...] = ()
    unlogged: Mapping[str, int] = field(default_factory=dict)
    collations: Mapping[str, str] = field(default_factory=dict)
    replicator: str | None = None
    certificate: str = ""


@dataclass(frozen=True)
class Target:
    """The cluster: its major version, settings that matter, and the C library's version of its hosts."""

    version: str
    settings: Mapping[str, str]
    glibc: str = ""


def parse_clusters(text: str) -> tuple[Listed, ...]:
    """Return the clusters that `pg_lsclusters --no-header` lists."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 6:
            found.append(Listed(words[0], words[1], int(words[2]), words[3], words[5]))
    return tuple(found)


def parse_server(data: Mapping[str, Any]) -> Server:
    """Return the server of the JSON that the module's query answers."""
    return Server(
        version=str(data["version"]),
        replica=data["replica"],
        settings=data["settings"],
        altered=tuple(data["altered"] or ()),
        md5=tuple(data["md5"] or ()),
        slots=tuple(data["slots"] or ()),
        tablespaces=tuple(data["tablespaces"] or ()),
        collations=data["collations"] or {},
        replicator=data["replicator"],
    )


def problems(server: Server, target: Target, accepted: Collection[str], certificate: str) -> tuple[str, ...]:
    """Return the problems that prevent it, each with its remedy. certificate: path of the one that adoption gives the server."""
    return (
        *_kind(server, target),
        *_reachable(server, certificate, accepted),
        *_size(server, target),
        *(text for word, text in _losses(server, target) if word not in accepted),
    )


def _kind(server: Server, target: Target) -> Iterator[str]:
    if server.version != target.version:
        yield (
            f"it is PostgreSQL {server.version}, allowed is {target.version}, the version of the cluster: upgrade it first (pg_upgrade)"
        )
    if server.replica:
        yield "it is a replica: adopt its primary"
    if server.tablespaces:
        yield f"it has the tablespaces {', '.join(server.tablespaces)}: move their tables to pg_default first"


def _reachable(server: Server, certificate: str, accepted: Collection[str]) -> Iterator[str]:
    settings = server.settings
    if settings["listen_addresses"].strip() in ("", "localhost", "127.0.0.1", "::1"):
        yield (
            f"listen_addresses is '{settings['listen_addresses']}', so nobody can follow it: set it to '*' and restart it at a time "
            "of your choice"
        )
    if settings["wal_level"] == "minimal":
        yield "wal_level is minimal: set it to replica and restart it"
    if settings["ssl"] != "on":
        yield "ssl is off: turn it on (a reload is enough)"
    if settings["ssl_cert_file"] not in (SNAKEOIL, certificate) and "certificate" not in accepted:
        yield (
            f"its clients may trust its certificate {settings['ssl_cert_file']}, which would be replaced by one of the cluster's CA "
            "(accept: certificate)"
        )
    if settings["password_encryption"] != "scram-sha-256":
        yield f"password_encryption is {settings['password_encryption']}, allowed is scram-sha-256 (a reload is enough)"
    if server.replicator is not None and not server.replicator.startswith(OWN_MARK):
        yield "it has a user replicator already, whose password would be replaced: rename that user"


def _size(server: Server, target: Target) -> Iterator[str]:
    for name in NOT_LOWER:
        there, here = int(server.settings[name]), int(target.settings.get(name, UNDECLARED))
        if there > here:
            yield f"{name} is {there} there and {here} in the cluster, which must not be lower: raise it in the inventory"
    missing = _libraries(server.settings["shared_preload_libraries"]) - _libraries(
        target.settings.get("shared_preload_libraries", "")
    )
    if missing:
        yield (
            f"shared_preload_libraries has {', '.join(sorted(missing))}, which the cluster doesn't: add it to patroni_parameters, and "
            "its package to the hosts"
        )


def _libraries(text: str) -> set[str]:
    return {word.strip().strip('"') for word in text.split(",") if word.strip()}


def _losses(server: Server, target: Target) -> Iterator[tuple[str, str]]:
    if server.unlogged:
        names = ", ".join(f"{count} in {database}" for database, count in sorted(server.unlogged.items()))
        yield "unlogged", f"unlogged tables are empty afterwards, there are {names} (accept: unlogged)"
    if server.altered:
        yield (
            "altered",
            f"ALTER SYSTEM has set {', '.join(server.altered)}, which would win over the inventory: declare them in patroni_parameters "
            "and ALTER SYSTEM RESET them (accept: altered)",
        )
    if server.md5:
        yield (
            "md5",
            f"the passwords of {', '.join(server.md5)} are md5, with which nobody can log in to the cluster: set them anew (accept: md5)",
        )
    if server.slots:
        yield "slots", f"the replication slots {', '.join(server.slots)} don't come along (accept: slots)"
    other = {name for name, version in server.collations.items() if target.glibc and version != target.glibc}
    if other:
        yield (
            "collation",
            f"the databases {', '.join(sorted(other))} sort by another version of the C library than {target.glibc} of the cluster's "
            "hosts: indexes on text would have to be rebuilt (accept: collation)",
        )


def parse_control(text: str) -> tuple[str, str]:
    """Return the cluster's state and the position of its last checkpoint, as pg_controldata prints them with LC_ALL=C."""
    found = dict(re.findall(r"^(Database cluster state|Latest checkpoint location): +(.+)$", text, re.MULTILINE))
    return found.get("Database cluster state", ""), found.get("Latest checkpoint location", "")


def with_block(text: str, lines: Collection[str]) -> str:
    """Return the text of a pg_hba.conf with our lines in front of all others, once."""
    begin, end = f"# BEGIN {OWN_MARK}", f"# END {OWN_MARK}"
    rest = re.sub(rf"^{re.escape(begin)}\n.*?^{re.escape(end)}\n", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([begin, *lines, end, ""]) + rest
