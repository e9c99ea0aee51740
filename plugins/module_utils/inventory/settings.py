# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Settings of PostgreSQL and Patroni of a running cluster as variables of the inventory. No I/O.

Sources: Patroni's documentation, "Dynamic Configuration Settings" (defaults of what is not set); src/bin/initdb/initdb.c of
PostgreSQL 15 to 18 (what initdb writes into postgresql.conf).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import (
    Host,
    Note,
    Part,
    common,
    is_template,
    listing,
    unlike_default,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.settings import PATRONIS_OWN
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.standalone import NOT_LOWER
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.timings import timing_faults

AREA = "postgresql"
# Patroni's own values where the configuration has none.
PATRONI_DEFAULTS = {
    "ttl": 30,
    "loop_wait": 10,
    "retry_timeout": 10,
    "primary_start_timeout": 300,
    "maximum_lag_on_failover": 1048576,
    "synchronous_mode": False,
    "synchronous_mode_strict": False,
    "synchronous_node_count": 1,
    "failsafe_mode": False,
}
TIMINGS = ("ttl", "loop_wait", "retry_timeout", "primary_start_timeout")
_VARIABLES = {
    "maximum_lag_on_failover": "patroni_maximum_lag_on_failover",
    "synchronous_mode_strict": "patroni_synchronous_mode_strict",
    "synchronous_node_count": "patroni_synchronous_node_count",
    "failsafe_mode": "patroni_failsafe_mode",
    "member_slots_ttl": "patroni_member_slots_ttl",
}
_HANDLED = frozenset(
    (*TIMINGS, *_VARIABLES, "master_start_timeout", "synchronous_mode", "postgresql", "standby_cluster", "pause")
)
_HANDLED_POSTGRESQL = frozenset(("parameters", "pg_hba", "pg_ident", "use_pg_rewind", "use_slots", "recovery_conf"))
# Computed by the role for each host, where a value for the whole cluster would lose.
COMPUTED = (
    "shared_buffers",
    "effective_cache_size",
    "maintenance_work_mem",
    "work_mem",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "max_parallel_maintenance_workers",
)
# Of the role: TLS and the socket are where its certificates and its programs expect them.
_FIXED = frozenset(
    ("unix_socket_directories", "password_encryption", "ssl", "ssl_cert_file", "ssl_key_file", "ssl_ca_file")
)
_ARCHIVING = frozenset(("archive_command", "archive_mode", "archive_timeout", "archive_library", "restore_command"))
_INITDB = frozenset(
    (
        "datestyle",
        "default_text_search_config",
        "dynamic_shared_memory_type",
        "lc_messages",
        "lc_monetary",
        "lc_numeric",
        "lc_time",
    )
) | {
    "log_timezone",
    "timezone",
    "max_connections",
    "shared_buffers",
    "max_wal_size",
    "min_wal_size",
    "autovacuum_worker_slots",
    "wal_level",
}


def same(left: Any, right: Any) -> bool:
    """Return whether two values of a setting mean the same, as far as their text tells."""
    return _text(left) == _text(right)


def _text(value: Any) -> str:
    text = str(value).strip().lower()
    if text in ("true", "yes"):
        return "on"
    return "off" if text in ("false", "no") else text


def memory_settings(memory: int, connections: int) -> dict[str, str]:
    """Return what the role patroni computes from memory in MiB (roles/patroni/vars/main.yml, which a test compares)."""
    return {
        "shared_buffers": f"{max(128, memory // 4)}MB",
        "effective_cache_size": f"{max(128, memory // 2)}MB",
        "maintenance_work_mem": f"{min(max(64, memory // 16), 2048)}MB",
        "work_mem": f"{min(max(4, memory // 4 // connections), 256)}MB",
    }


def core_settings(cpus: int) -> dict[str, int]:
    """Return what the role patroni computes from the number of processors."""
    gather = min(max(1, cpus // 2), 4)
    return {
        "max_parallel_workers": min(max(2, cpus), 8),
        "max_parallel_workers_per_gather": gather,
        "max_parallel_maintenance_workers": gather,
    }


def patroni_variables(dynamic: Mapping[str, Any], defaults: Mapping[str, Any], profiles: Mapping[str, Any]) -> Part:
    """Return the variables of Patroni's dynamic configuration, without PostgreSQL's parameters.

    Parameters: defaults, of the roles; profiles, values of patroni_timing.
    """
    config = {**PATRONI_DEFAULTS, **dynamic}
    if "primary_start_timeout" not in dynamic and "master_start_timeout" in dynamic:
        config["primary_start_timeout"] = dynamic["master_start_timeout"]
    found = {variable: config[key] for key, variable in _VARIABLES.items() if key in config}
    found["patroni_synchronous_mode"] = _synchronous(config["synchronous_mode"])
    variables = unlike_default(found, defaults)
    more = {key: value for key, value in dynamic.items() if key not in _HANDLED}
    timing, extra, notes = _timing({name: config[name] for name in TIMINGS}, profiles)
    variables.update(unlike_default({"patroni_timing": timing}, defaults))
    more.update(extra)
    postgresql, told = _postgresql_keys(dynamic.get("postgresql") or {})
    notes += told
    if postgresql:
        more["postgresql"] = postgresql
    if more:
        variables["patroni_dynamic_config"] = more
    notes += _of_the_moment(dynamic)
    standby = dynamic.get("standby_cluster") or {}
    if standby:
        variables["patroni_standby_cluster"] = {
            key: standby[key] for key in ("host", "port", "primary_slot_name") if standby.get(key)
        }
    return Part(variables=variables, notes=tuple(notes))


def _synchronous(mode: Any) -> str:
    if str(mode).lower() == "quorum":
        return "quorum"
    return "synchronous" if _text(mode) == "on" else "asynchronous"


def _timing(found: Mapping[str, Any], profiles: Mapping[str, Any]) -> tuple[str, dict[str, Any], list[Note]]:
    """Return (profile, what differs from it, notes): the nearest profile, as HAProxy and etcd need one."""
    nearest = min(
        profiles,
        key=lambda name: sum(abs(int(profiles[name]["patroni"][key]) - int(found[key])) for key in TIMINGS[:3]),
    )
    extra = {key: value for key, value in found.items() if value != profiles[nearest]["patroni"][key]}
    faults = timing_faults({**profiles[nearest]["patroni"], **extra})
    if faults:
        told = "; ".join(f"{name} is {value}" for name, value, _allowed in faults)
        return (
            nearest,
            {},
            [Note(AREA, "lost", "patroni_timing", f"{told}: Patroni itself replaces such values; the profile counts")],
        )
    notes = [
        Note(
            AREA,
            "decide",
            "patroni_dynamic_config",
            f"{listing(extra)} of the profile {nearest}, the nearest, are the cluster's own",
        )
    ]
    return nearest, extra, notes if extra else []


def _postgresql_keys(found: Mapping[str, Any]) -> tuple[dict[str, Any], list[Note]]:
    kept = {key: value for key, value in found.items() if key not in _HANDLED_POSTGRESQL}
    notes = []
    for key in ("use_pg_rewind", "use_slots"):
        if key in found and _text(found[key]) != "on":
            kept[key] = found[key]
    recovery = {key: value for key, value in (found.get("recovery_conf") or {}).items() if key != "restore_command"}
    if recovery:
        kept["recovery_conf"] = recovery
    if found.get("pg_ident"):
        notes.append(
            Note(
                AREA,
                "lost",
                "pg_ident.conf",
                f"the role writes its own map; {len(found['pg_ident'])} lines of the cluster go",
            )
        )
    return kept, notes


def _of_the_moment(dynamic: Mapping[str, Any]) -> list[Note]:
    notes = []
    if dynamic.get("pause"):
        notes.append(
            Note(
                AREA,
                "decide",
                "pause",
                "Patroni is paused (patronictl resume); the inventory does not keep that, and site.yml ends it",
            )
        )
    if dynamic.get("standby_cluster"):
        text = "read when a cluster is made; promote_cluster.yml and demote_cluster.yml say later which site leads"
        notes.append(Note(AREA, "decide", "patroni_standby_cluster", text))
    return notes


def parameters(leader: Host, members: Mapping[str, Host], defaults: Mapping[str, Any]) -> Part:
    """Return the variables with PostgreSQL's parameters: of the cluster, and of hosts.

    Parameters: leader, the host whose settings count for all; members, hosts by their names in the inventory.
    """
    role = {name: value for name, value in defaults["__patroni_parameters"].items() if not is_template(value)}
    declared = dict(((leader.patroni.get("dynamic") or {}).get("postgresql") or {}).get("parameters") or {})
    live: Mapping[str, Mapping[str, Any]] = leader.postgresql.get("settings") or {}
    notes: list[Note] = []
    for name, row in live.items():
        file = str(row.get("file") or "").rpartition("/")[2]
        if (
            row.get("source") == "configuration file"
            and file != "postgresql.conf"
            and name.lower() not in {*_INITDB, *declared}
        ):
            declared[name] = row["value"]
            if file == "postgresql.auto.conf":
                text = f"{name} was set by ALTER SYSTEM, which wins over the inventory: ALTER SYSTEM RESET {name} once it stands here"
                notes.append(Note(AREA, "decide", "patroni_parameters", text))
    connections = declared.pop("max_connections", (live.get("max_connections") or {}).get("value"))
    found = {name: value for name, value in declared.items() if value is not None and name.lower() not in PATRONIS_OWN}
    notes += _not_kept(found)
    found = {name: value for name, value in found.items() if name not in _FIXED | _ARCHIVING}
    shared = {name: found.pop(name) for name in COMPUTED if name in found}
    found = {name: value for name, value in found.items() if name not in role or not same(value, role[name])}
    for name in NOT_LOWER:
        running = str((live.get(name) or {}).get("value", ""))
        if (
            name not in {*declared, "max_connections"}
            and running.isdigit()
            and int(running) > int(role.get(name, 1 << 30))
        ):
            found[name] = int(running)
    variables: dict[str, Any] = {"patroni_parameters": found} if found else {}
    if connections is not None and str(connections) != str(defaults["patroni_max_connections"]):
        variables["patroni_max_connections"] = int(connections)
    hosts = {
        name: host_parameters(host, shared, int(connections or defaults["patroni_max_connections"]))
        for name, host in members.items()
    }
    notes += _undeclared(role, {**declared, **found}, live)
    notes += _undeclared_memory(leader, shared, live)
    own, rest = common(hosts)
    return Part({**variables, **own}, rest, tuple(notes))


def host_parameters(host: Host, shared: Mapping[str, Any], connections: int) -> dict[str, Any]:
    """Return patroni_memory and patroni_host_parameters of one host; shared: values of the cluster for what the role computes."""
    local = (host.patroni.get("config") or {}).get("postgresql") or {}
    found = {**shared, **(local.get("parameters") or {})}
    found = {name: value for name, value in found.items() if name not in _FIXED and name.lower() not in PATRONIS_OWN}
    found = {name: value for name, value in found.items() if name not in _ARCHIVING and name != "max_connections"}
    memory = _memory(found, host.memory, connections)
    computed: Mapping[str, Any] = {**core_settings(host.cpus), **memory_settings(memory or host.memory, connections)}
    more = {name: value for name, value in found.items() if name not in computed or not same(value, computed[name])}
    variables: dict[str, Any] = {"patroni_memory": memory} if memory else {}
    return {**variables, **({"patroni_host_parameters": more} if more else {})}


def _memory(found: Mapping[str, Any], total: int, connections: int) -> int:
    """Return the patroni_memory that explains the memory settings, 0 where the host's own does or none does.

    What an operator most likely sets beside it, work_mem and maintenance_work_mem, need not fit.
    """
    cache = str(found.get("effective_cache_size", "")).removesuffix("MB")
    if not cache.isdigit():
        return 0
    for memory in (total, int(cache) * 2, int(cache) * 2 + 1):
        computed = memory_settings(memory, connections)
        if all(same(found.get(name), computed[name]) for name in ("effective_cache_size", "shared_buffers")):
            return 0 if memory == total else memory
    return 0


def _not_kept(found: Mapping[str, Any]) -> list[Note]:
    notes = []
    command = str(found.get("archive_command") or "")
    if command and command != "/bin/true" and "/usr/local/lib/holdfast/" not in command:
        text = (
            "archive_command is the cluster's own; the collection archives by pgBackRest: "
            "declare pgbackrest_repositories or a host in the group backup"
        )
        notes.append(Note(AREA, "decide", "pgbackrest_repositories", text))
    for name in sorted(_FIXED & found.keys()):
        if name in ("ssl", "password_encryption") and _text(found[name]) in ("on", "scram-sha-256"):
            continue
        notes.append(Note(AREA, "lost", name, f"is '{found[name]}'; the role sets it to its own"))
    return notes


def _undeclared(
    role: Mapping[str, Any], declared: Mapping[str, Any], live: Mapping[str, Mapping[str, Any]]
) -> list[Note]:
    """Return a note for what the role sets and the cluster does not, where the running value differs."""
    differing = [
        f"{name} {live[name]['value']} -> {value}"
        for name, value in role.items()
        if name not in declared and name not in _ARCHIVING and name in live and not same(live[name]["value"], value)
    ]
    if not differing:
        return []
    text = f"the role changes what the cluster leaves at its default: {'; '.join(differing)}; to keep a value, write it here"
    return [Note(AREA, "decide", "patroni_parameters", text)]


def _undeclared_memory(leader: Host, shared: Mapping[str, Any], live: Mapping[str, Mapping[str, Any]]) -> list[Note]:
    local = ((leader.patroni.get("config") or {}).get("postgresql") or {}).get("parameters") or {}
    missing = [
        f"{name} {live[name]['value']}"
        for name in COMPUTED
        if name not in shared and name not in local and name in live
    ]
    if not missing:
        return []
    text = f"the role computes from the host what the cluster leaves at its default: {'; '.join(missing)}; to keep a value, write it here"
    return [Note(AREA, "decide", "patroni_host_parameters", text)]
