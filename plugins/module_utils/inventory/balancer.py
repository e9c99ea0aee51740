# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""PgBouncer, HAProxy and keepalived of a running cluster as variables of the inventory. No I/O.

Source of what holds where nothing is said: PgBouncer's manual, defaults of 1.18 to 1.24.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import (
    Host,
    Note,
    Part,
    common,
    is_template,
    unlike_default,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.databases import (
    ANY,
    READ_ONLY_SUFFIX,
    SESSION_SUFFIX,
)

AREA = "balancer"
# Setting of PgBouncer: the variable, and the value where it is not set.
_NUMBERS = {
    "listen_port": ("cluster_port_pgbouncer", 6432),
    "max_client_conn": ("pgbouncer_max_client_connections", 100),
    "default_pool_size": ("pgbouncer_default_pool_size", 20),
    "min_pool_size": ("pgbouncer_min_pool_size", 0),
    "reserve_pool_size": ("pgbouncer_reserve_pool_size", 0),
    "max_db_connections": ("pgbouncer_max_database_connections", 0),
    "max_user_connections": ("pgbouncer_max_user_connections", 0),
    "query_wait_timeout": ("pgbouncer_query_wait_timeout", 120),
    "server_idle_timeout": ("pgbouncer_server_idle_timeout", 600),
    "idle_transaction_timeout": ("pgbouncer_idle_transaction_timeout", 0),
}
# Those that the collection's way through a failover needs: kept where they were set, never taken from PgBouncer's own defaults.
_DELIBERATE = {
    "max_prepared_statements": "pgbouncer_max_prepared_statements",
    "server_lifetime": "pgbouncer_server_lifetime",
    "server_login_retry": "pgbouncer_server_login_retry",
}
_LISTS = {
    "ignore_startup_parameters": "pgbouncer_ignore_startup_parameters",
    "track_extra_parameters": "pgbouncer_track_extra_parameters",
}
_OPTIONS = {
    "pool_mode": "pool_mode",
    "pool_size": "pool_size",
    "min_pool_size": "min_pool_size",
    "reserve_pool": "reserve_pool_size",
    "max_db_connections": "max_connections",
}
_MARK = "/run/postgresql"
_CHECKS = {
    "haproxy_read_write": ("/primary", "/master", "/leader", "/read-write", "/"),
    "haproxy_read_only": ("/replica", "/read-only", "/asynchronous", "/async", "/read-only-sync"),
    "haproxy_synchronous": ("/synchronous", "/sync", "/quorum", "/read-only-quorum"),
}


def plan(hosts: Mapping[str, Host], databases: Iterable[str], defaults: Mapping[str, Any]) -> Part:
    """Return the variables of hosts with pools or routing, by their names in the inventory; databases: names that PostgreSQL has."""
    variables: dict[str, Any] = {}
    per_host: dict[str, dict[str, Any]] = {}
    notes: list[Note] = []
    known = list(databases)
    for name, host in hosts.items():
        routed, ports = _haproxy(host, notes)
        own = {**routed, **_pgbouncer(host, known, ports, defaults, notes), **_vip(host)}
        per_host[name] = unlike_default(own, defaults)
    shared, rest = common(per_host)
    variables.update(shared)
    for name, values in rest.items():
        text = f"{name} differs from the other balancers in {', '.join(sorted(values))}; ports and pools should be alike on all"
        notes.append(Note(AREA, "decide", "balancer", text))
    return Part(variables, rest, tuple(dict.fromkeys(notes)))


def demands_certificates(hosts: Iterable[Host]) -> list[bool]:
    """Return for each PgBouncer whether its clients need a certificate."""
    modes = [
        str(host.facts["pgbouncer"]["settings"].get("client_tls_sslmode", "disable"))
        for host in hosts
        if host.facts.get("pgbouncer")
    ]
    return [mode in ("verify-ca", "verify-full") for mode in modes]


def _pgbouncer(
    host: Host, databases: list[str], ports: Mapping[int, str], defaults: Mapping[str, Any], notes: list[Note]
) -> dict[str, Any]:
    facts = host.facts.get("pgbouncer")
    if not facts:
        if host.facts.get("haproxy"):
            notes.append(
                Note(
                    AREA,
                    "decide",
                    "balancer",
                    "HAProxy runs without PgBouncer; the role pgbouncer adds pools beside it",
                )
            )
        return {}
    settings: Mapping[str, str] = facts["settings"]
    own = settings.get("auth_query", "").startswith("SELECT * FROM pgbouncer.get_auth")
    found: dict[str, Any] = {
        variable: _number(settings.get(name, missing)) for name, (variable, missing) in _NUMBERS.items()
    }
    found["pgbouncer_pool_mode"] = settings.get("pool_mode", "session")
    found.update({variable: _number(settings[name]) for name, variable in _DELIBERATE.items() if name in settings})
    found.update({variable: _names(settings[name]) for name, variable in _LISTS.items() if name in settings})
    if "listen_addr" in settings:
        found["pgbouncer_listen_address"] = settings["listen_addr"]
    if own:
        found.update(_of_the_role(settings, facts["databases"]))
    found["pgbouncer_admin_users"] = [name for name in _names(settings.get("admin_users", "")) if name != "pgbouncer"]
    found["pgbouncer_stats_users"] = _names(settings.get("stats_users", ""))
    found.update(_databases(facts["databases"], databases, ports, own))
    notes += _notes(settings, facts, own)
    lists = ("pgbouncer_read_only_databases", "pgbouncer_session_databases")
    return {name: value for name, value in found.items() if name in lists or not is_template(defaults.get(name))}


def _of_the_role(settings: Mapping[str, str], lines: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Return what only a PgBouncer of the role tells: how clients of one connection are kept apart, and its session pools."""
    found: dict[str, Any] = {"pgbouncer_isolation": "fast"}
    if "/**/" in (settings.get("server_reset_query"), settings.get("server_check_query")):
        found["pgbouncer_isolation"] = "checked"
    elif settings.get("server_reset_query_always") == "1":
        found["pgbouncer_isolation"] = "clean"
    if settings.get("server_lifetime") == "0":
        # The role has it in each line then, but not where all pools are of sessions.
        lifetime = lines.get(ANY, {}).get("server_lifetime")
        found["pgbouncer_server_lifetime"] = _number(lifetime) if lifetime else None
    if found["pgbouncer_isolation"] != "checked" or settings.get("server_check_query") == "select 1":
        found["pgbouncer_server_check_delay"] = _number(settings.get("server_check_delay", "30"))
    sessions = [
        words for name, words in lines.items() if name.endswith(SESSION_SUFFIX) and words.get("pool_mode") == "session"
    ]
    if sessions:
        found["pgbouncer_session_pool_size"] = _number(sessions[0].get("pool_size", "10"))
        found["pgbouncer_session_max_connections"] = _number(sessions[0].get("max_db_connections", "10"))
    found["pgbouncer_log_connections"] = settings.get("log_connections", "1") == "1"
    return found


def _databases(
    lines: Mapping[str, Mapping[str, str]], databases: list[str], ports: Mapping[int, str], own: bool
) -> dict[str, Any]:
    derived: dict[str, list[str]] = {READ_ONLY_SUFFIX: [], SESSION_SUFFIX: []}
    declared = []
    for name, words in lines.items():
        database = words.get("dbname", name)
        target = ports.get(_number(words.get("port", "0")), "haproxy_read_write").removeprefix("haproxy_")
        options = {option: _value(words[word]) for word, option in _OPTIONS.items() if word in words}
        suffix = next((end for end in derived if own and database in databases and name == f"{database}{end}"), "")
        if suffix:
            derived[suffix].append(database)
        elif name == ANY or (name == database and not options and target == "read_write"):
            continue
        else:
            extra = {} if database == name else {"database": database}
            declared.append(
                {"name": name, **extra, **({} if target == "read_write" else {"target": target}), **options}
            )
    found: dict[str, Any] = {"pgbouncer_databases": declared}
    if own:
        names = {READ_ONLY_SUFFIX: "pgbouncer_read_only_databases", SESSION_SUFFIX: "pgbouncer_session_databases"}
        real = [name for name in databases if name != "postgres"]
        found.update({names[end]: each for end, each in derived.items() if sorted(each) != sorted(real)})
    return found


def _notes(settings: Mapping[str, str], facts: Mapping[str, Any], own: bool) -> list[Note]:
    notes = []
    if settings.get("client_tls_sslmode", "disable") in ("disable", "allow", "prefer"):
        notes.append(
            Note(AREA, "decide", "pgbouncer", "clients come to PgBouncer without TLS; from then on they need it")
        )
    if not own and settings.get("auth_type", "md5") not in ("scram-sha-256", "md5", "plain", "trust"):
        notes.append(
            Note(
                AREA,
                "lost",
                "pgbouncer",
                f"auth_type is {settings['auth_type']}; the role looks SCRAM passwords up in PostgreSQL",
            )
        )
    if not own and "auth_file" in settings:
        text = (
            "users and passwords of auth_file play no part: the role asks PostgreSQL, so each user has to exist there"
        )
        notes.append(Note(AREA, "decide", "pgbouncer", text))
    forced = sorted(name for name, words in facts["databases"].items() if "user" in words)
    if forced:
        notes.append(
            Note(
                AREA,
                "lost",
                "pgbouncer_databases",
                f"{', '.join(forced)}: a fixed user for all clients; each client logs in as itself",
            )
        )
    return notes


def _haproxy(host: Host, notes: list[Note]) -> tuple[dict[str, Any], dict[int, str]]:
    """Return (variables, which way each port leads)."""
    facts = host.facts.get("haproxy")
    if not facts:
        return {}, {}
    checks = {section["name"]: section["check"] for section in facts["sections"] if section["check"]}
    found: dict[str, Any] = {"haproxy_max_connections": facts["maxconn"]}
    ports: dict[int, str] = {}
    for section in facts["sections"]:
        check = section["check"] or checks.get(section["backend"], "")
        way = next((way for way, paths in _CHECKS.items() if check and check.partition("?")[0] in paths), "")
        if way and section["binds"]:
            bind = section["binds"][0]
            ports[bind["port"]] = way
            found[f"cluster_port_{way}"] = bind["port"]
            found["haproxy_listen_address"] = bind["address"]
        if way == "haproxy_read_only":
            lag = re.search(r"[?&]lag=([^&]+)", check)
            found["haproxy_read_only_max_lag"] = lag[1] if lag else None
        if (
            section["binds"]
            and not way
            and section["name"] not in ("statistics", "stats", "liveness", "prometheus", "metrics")
        ):
            notes.append(
                Note(
                    AREA,
                    "lost",
                    "haproxy",
                    f"the section {section['kind']} {section['name']} does not ask Patroni; nothing declares it",
                )
            )
        if section["name"] in ("statistics", "stats") and section["binds"]:
            found["cluster_port_haproxy_statistics"] = section["binds"][0]["port"]
    if not ports:
        notes.append(
            Note(AREA, "decide", "haproxy", "no section asks Patroni's REST API who leads; the role's own ports apply")
        )
    return found, ports


def _vip(host: Host) -> dict[str, Any]:
    facts = host.facts.get("keepalived")
    if not facts:
        return {}
    return {
        "cluster_vip": facts["address"],
        "cluster_vip_prefix": facts["prefix"],
        "haproxy_vip_router_id": facts["router_id"],
    }


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _number(text: Any) -> int:
    try:
        return int(float(str(text)))
    except ValueError:
        return 0


def _value(text: str) -> Any:
    return int(text) if text.isdigit() else text
