# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Lines of a running cluster's pg_hba.conf as variables of the inventory. No I/O.

Source: PostgreSQL's manual, "The pg_hba.conf File". The lines of the cluster's own users are written by the role patroni.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup.dump import SYSTEM_ROLES
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import secrets
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import Note, Part
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.postgresql import hba_fault

AREA = "postgresql"
PASSWORDS = frozenset(("scram-sha-256", "md5"))
LOOPBACK = frozenset(("127.0.0.1/32", "::1/128", "localhost", "samehost"))


@dataclass
class _Found:
    """What is gathered line by line."""

    applications: list[str] = field(default_factory=list)
    replication: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    demands: list[bool] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)

    def note(self, kind: str, about: str, text: str) -> None:
        """Add a note."""
        self.notes.append(Note(AREA, kind, about, text))


def plan(
    lines: Iterable[str], addresses: Iterable[str], balancers: Iterable[str], users: Iterable[str]
) -> tuple[Part, bool]:
    """Return the variables, and whether every application needs a client certificate.

    Parameters: lines, of pg_hba.conf; addresses, of all hosts of the cluster; balancers, those of hosts with pools; users, names that
    Patroni uses for itself.
    """
    found = _Found()
    hosts, pools = ({_network(address) for address in each} for each in (addresses, balancers))
    for line in lines:
        words = " ".join(line.split()).partition(" #")[0].split()
        if words and not words[0].startswith("#"):
            _line(found, words, hosts, pools, {*SYSTEM_ROLES, *users})
    variables: dict[str, Any] = {
        "patroni_hba": found.lines,
        "patroni_application_networks": list(dict.fromkeys(found.applications)),
        "patroni_replication_networks": list(dict.fromkeys(found.replication)),
    }
    return Part(variables={name: value for name, value in variables.items() if value}, notes=tuple(found.notes)), all(
        found.demands
    )


def _network(address: str) -> str:
    return address if "/" in address else f"{address}/{128 if ':' in address else 32}"


def _line(found: _Found, words: list[str], hosts: set[str], pools: set[str], users: set[str]) -> None:
    line = " ".join(words)
    if secrets.has_secret(line) or "ldapbindpasswd" in line or "radiussecrets" in line:
        found.note(
            "secret",
            "patroni_hba",
            f"a line of type {words[0]} for {' '.join(words[1:3])} carries a password and was left out",
        )
        return
    if len(words) < 4:
        found.note("lost", "patroni_hba", f"'{line}': not understood")
        return
    databases, names = set(words[1].split(",")), set(words[2].split(","))
    if words[0] == "local":
        _local(found, line, words, names, users)
    elif "replication" in databases:
        _replication(found, line, words, names <= users, hosts)
    elif names & users or ("reject" in words and names == databases == {"all"}):
        if not names <= users and "reject" not in words:
            found.note("lost", "patroni_hba", f"'{line}': users of the cluster itself have lines of their own")
    elif databases == {"all"} and names == {"all"} and words[4:5] and words[4] in PASSWORDS:
        _application(found, words, hosts, pools)
    else:
        _other(found, line)


def _local(found: _Found, line: str, words: list[str], names: set[str], users: set[str]) -> None:
    if words[3] in ("trust", "password") and not names <= users:
        found.note(
            "decide", "patroni_hba", f"'{line}': sessions on the host itself need a password (SCRAM) from then on"
        )
    elif "all" not in names and not names & users:
        _other(found, line)


def _replication(found: _Found, line: str, words: list[str], own: bool, hosts: set[str]) -> None:
    network = words[3]
    if "reject" in words or network in LOOPBACK or any(_holds(network, host) for host in hosts):
        return
    if own and words[4] in PASSWORDS and "/" in network:
        found.replication.append(network)
    else:
        found.note(
            "lost",
            "patroni_replication_networks",
            f"'{line}': only hosts of the cluster and networks of other sites replicate, over TLS",
        )


def _holds(network: str, host: str) -> bool:
    """Return whether a network has a host, or is its name."""
    try:
        return ipaddress.ip_address(host.partition("/")[0]) in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return network == host.partition("/")[0]


def _application(found: _Found, words: list[str], hosts: set[str], pools: set[str]) -> None:
    network = {"all": "0.0.0.0/0"}.get(words[3], words[3])
    found.demands.append(any(word.startswith("clientcert=") for word in words[5:]))
    if network in LOOPBACK or network in pools:
        return
    found.applications.append(network)
    if words[0] == "host":
        found.note(
            "decide",
            "patroni_application_networks",
            f"clients from {network} may do without TLS now; from then on they need it",
        )
    if network in hosts:
        found.note(
            "decide",
            "patroni_application_networks",
            f"{network} is a host of the cluster; take it out if only pools come from there",
        )


def _other(found: _Found, line: str) -> None:
    fault = hba_fault(line)
    if fault:
        found.note("lost", "patroni_hba", f"'{line}': {fault}")
    else:
        found.lines.append(line)


def lines_of(config: Mapping[str, Any], dynamic: Mapping[str, Any], file: Iterable[str]) -> list[str]:
    """Return the lines that count: those of the member's own configuration, else of the cluster's, else of the file."""
    for source in (config, dynamic):
        lines = (source.get("postgresql") or {}).get("pg_hba")
        if lines:
            return [str(line) for line in lines]
    return [str(line) for line in file]
