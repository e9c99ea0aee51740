# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A running Valkey cluster as variables of the inventory. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.configuration import rules_key
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import (
    Host,
    Note,
    Part,
    common,
    listing,
    unlike_default,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.placement import RESERVED_USERS
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.config import (
    BUS_PORT_OFFSET,
    parse_size,
    same,
    share_memory,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Node,
    View,
    endpoint_text,
    parse_nodes,
)

AREA = "valkey"
_MIB = 1 << 20
_GRAIN = 16 * _MIB
_BOOLEANS = {
    "appendonly": "valkey_appendonly",
    "cluster-require-full-coverage": "valkey_require_full_coverage",
    "cluster-allow-replica-migration": "valkey_replica_migration",
}
_NUMBERS = {"cluster-node-timeout": "valkey_node_timeout", "min-replicas-to-write": "valkey_min_replicas_to_write"}
_TEXTS = {
    "maxmemory-policy": "valkey_maxmemory_policy",
    "appendfsync": "valkey_appendfsync",
    "repl-backlog-size": "valkey_backlog_size",
    "bind": "valkey_bind",
}
_SERVER_DEFAULTS = {
    "appendonly": "no",
    "cluster-require-full-coverage": "yes",
    "cluster-allow-replica-migration": "yes",
    "cluster-node-timeout": "15000",
    "min-replicas-to-write": "0",
    "maxmemory-policy": "noeviction",
    "appendfsync": "everysec",
    "save": "3600 1 300 100 60 10000",
}
# What the role writes itself, because its units, certificates and users stand on it.
_ROLES_OWN = frozenset(
    (
        "aclfile",
        "availability-zone",
        "client-output-buffer-limit",
        "cluster-announce-bus-port",
        "cluster-announce-human-nodename",
        "cluster-announce-ip",
        "cluster-announce-port",
        "cluster-announce-tls-port",
        "cluster-config-file",
        "cluster-enabled",
        "cluster-port",
        "daemonize",
        "dir",
        "include",
        "logfile",
        "masteruser",
        "maxmemory",
        "pidfile",
        "port",
        "primaryuser",
        "protected-mode",
        "replicaof",
        "slaveof",
        "shutdown-on-sigterm",
        "supervised",
        "tls-auth-clients",
        "tls-ca-cert-file",
        "tls-cert-file",
        "tls-cluster",
        "tls-key-file",
        "tls-port",
        "tls-protocols",
        "tls-replication",
        "unixsocket",
        "unixsocketperm",
        "user",
        *_BOOLEANS,
        *_NUMBERS,
        *_TEXTS,
        "save",
    )
)
# What is asked of a server, beside what its file declares.
ASKED = frozenset((*_ROLES_OWN, "cluster-announce-hostname")) - {"user", "include"}
# What the role's template sets beside its variables.
_TEMPLATE = {"latency-monitor-threshold": "100", "shutdown-timeout": "10"}


def plan(hosts: Mapping[str, Host], defaults: Mapping[str, Any]) -> Part:
    """Return the variables of one Valkey cluster; hosts: those with servers, by their names in the inventory. Raises Refusal."""
    servers = [(name, server) for name, host in hosts.items() for server in host.valkey if server["cluster_enabled"]]
    notes = [
        Note(
            AREA,
            "lost",
            "valkey_instances",
            f"{name}:{server['port']} belongs to no cluster; only clusters are kept",
        )
        for name, host in hosts.items()
        for server in host.valkey
        if not server["cluster_enabled"]
    ]
    if not servers:
        return Part(notes=tuple(notes))
    view = _view(servers, hosts)
    settings = {f"{name}:{server['port']}": _settings(server, defaults) for name, server in servers}
    shared, single = common(settings)
    variables, told = _shape(view, servers)
    notes += told
    notes += _server_notes(servers)
    users, told = _users(servers, defaults)
    variables |= {**shared, **users}
    per_host, told_memory = _instances(hosts, view, single, defaults)
    notes += [*told, *told_memory]
    own, rest = common(per_host)
    return Part(unlike_default({**variables, **own}, defaults), rest, tuple(dict.fromkeys(notes)))


def demands_certificates(hosts: Iterable[Host]) -> list[bool]:
    """Return for each server whether its clients need a certificate."""
    servers = [server for host in hosts for server in host.valkey if server["cluster_enabled"]]
    return [
        _value(server, "tls-port", "0") != "0" and _value(server, "tls-auth-clients", "yes") == "yes"
        for server in servers
    ]


def _view(servers: list[tuple[str, Mapping[str, Any]]], hosts: Mapping[str, Host]) -> View:
    """Return the cluster as the first server sees it. Raises Refusal where it has members whose hosts were not looked at."""
    views = [parse_nodes(str(server["nodes"])) for _name, server in servers]
    ids = [{node.id for node in view.nodes if not node.failed and node.has_address} for view in views]
    for (name, server), own in zip(servers[1:], ids[1:], strict=True):
        if not own & ids[0]:
            first, port = servers[0][0], servers[0][1]["port"]
            raise Refusal(
                f"{first}:{port} and {name}:{server['port']} belong to two Valkey clusters, one is allowed in an inventory",
                "Give the hosts of one cluster",
            )
    seen = {node.id for view in views for node in view.nodes if node.myself}
    missing = [_where(node) for node in views[0].nodes if node.id not in seen and not node.failed and node.has_address]
    if missing:
        raise Refusal(
            f"the Valkey cluster has members that were not looked at: {listing(missing)}; found were {listing(hosts)}",
            "Give their hosts, too",
        )
    return views[0]


def _where(node: Node) -> str:
    """Return address:port of a member. Through a socket a server tells the port without TLS, which is 0 where there is none."""
    return endpoint_text(node.address or node.hostname, node.port or node.bus_port - BUS_PORT_OFFSET)


def _value(server: Mapping[str, Any], name: str, missing: str = "") -> str:
    """Return a setting as the server has it; as its file declares it where nobody could ask, or where both mean the same."""
    live, declared = server["live"].get(name), server["declared"].get(name)
    if live is None:
        return str(missing if declared is None else declared)
    if declared is not None and same(name, str(declared), str(live)):
        return str(declared)
    return _size_text(str(live)) if name in ("repl-backlog-size", "maxmemory") else str(live)


def _size_text(text: str) -> str:
    size = parse_size(text)
    if not size:
        return text
    for unit, bytes_ in (("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10)):
        if size % bytes_ == 0:
            return f"{size // bytes_}{unit}"
    return text


def _settings(server: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the variables that the settings of one server make."""
    found: dict[str, Any] = {}
    for name, variable in _BOOLEANS.items():
        found[variable] = _value(server, name, _SERVER_DEFAULTS[name]) == "yes"
    for name, variable in _NUMBERS.items():
        found[variable] = int(_value(server, name, _SERVER_DEFAULTS[name]))
    for name, variable in _TEXTS.items():
        value = _value(server, name, _SERVER_DEFAULTS.get(name, str(defaults[variable])))
        found[variable] = defaults[variable] if same(name, str(defaults[variable]), value) else value
    words = _value(server, "save", _SERVER_DEFAULTS["save"]).replace('""', "").split()
    found["valkey_save"] = [" ".join(pair) for pair in zip(words[::2], words[1::2], strict=False)]
    limit = _replica_limit(server)
    if limit and not same(
        "client-output-buffer-limit", f"replica {defaults['valkey_replica_buffer']}", f"replica {limit}"
    ):
        found["valkey_replica_buffer"] = limit
    more = {
        name: _value(server, name)
        for name in server["declared"]
        if name not in _ROLES_OWN and _value(server, name) != _TEMPLATE.get(name)
    }
    if more:
        found["valkey_settings"] = more
    return found


def _replica_limit(server: Mapping[str, Any]) -> str:
    words = _value(server, "client-output-buffer-limit").split()
    for index, word in enumerate(words):
        if word in ("replica", "slave"):
            return " ".join(
                _size_text(part) if place < 2 else part for place, part in enumerate(words[index + 1 : index + 4])
            )
    return ""


def _shape(view: View, servers: list[tuple[str, Mapping[str, Any]]]) -> tuple[dict[str, Any], list[Note]]:
    """Return (valkey_replicas, notes about where members are)."""
    notes = []
    home = {
        node.id: name for name, server in servers for node in parse_nodes(str(server["nodes"])).nodes if node.myself
    }
    primaries = [node for node in view.nodes if node.is_primary and node.slots and not node.failed]
    replicas = Counter(node.primary_id for node in view.nodes if node.is_replica and not node.failed)
    counts = [replicas[node.id] for node in primaries]
    number = min(counts, default=0)
    gone = [_where(node) for node in view.nodes if node.failed or not node.has_address]
    if gone:
        notes.append(
            Note(
                AREA,
                "decide",
                "valkey_instances",
                f"members that are gone and not forgotten: {listing(gone)}; they are not in the inventory",
            )
        )
    if len(set(counts)) > 1:
        text = f"primaries have {listing(sorted(set(counts)))} replicas; the role gives each the same number"
        notes.append(Note(AREA, "decide", "valkey_replicas", text))
    together = [
        _where(node)
        for node in view.nodes
        if node.is_replica and home.get(node.id) == home.get(node.primary_id or "", "")
    ]
    if together:
        text = f"replicas on their primary's host: {listing(together)}; the role moves them to other hosts"
        notes.append(Note(AREA, "decide", "valkey_replicas", text))
    covered = sum(ranges.count(node.slots) for node in primaries)
    if covered != ranges.SLOT_COUNT:
        notes.append(
            Note(
                AREA,
                "decide",
                "valkey_instances",
                f"{ranges.SLOT_COUNT - covered} slots have no owner: repair the cluster first",
            )
        )
    return {"valkey_replicas": number}, notes


def _server_notes(servers: list[tuple[str, Mapping[str, Any]]]) -> list[Note]:
    notes = []

    def note(kind: str, about: str, text: str, found: list[str]) -> None:
        if found:
            notes.append(Note(AREA, kind, about, f"{text} ({listing(found)})"))

    where = {f"{name}:{server['port']}": server for name, server in servers}
    plain = [name for name, server in where.items() if _value(server, "port", "0") != "0"]
    note(
        "decide",
        "valkey_settings",
        "clients come without TLS; the role opens a TLS port only, under the same number",
        plain,
    )
    redis = [name for name, server in where.items() if server["program"] == "redis-server"]
    note(
        "decide",
        "valkey_instances",
        "this is Redis; the role runs Valkey, which takes data of Redis up to 7.2 over",
        redis,
    )
    moved = [
        f"{name} {_value(server, 'dir')}"
        for name, server in where.items()
        if _value(server, "dir").rstrip("/") not in ("", f"/var/lib/valkey/{server['port']}")
    ]
    note(
        "decide",
        "valkey_instances",
        "data lies elsewhere than in /var/lib/valkey/PORT, where the role expects it: join new instances, then let the old ones go",
        moved,
    )
    blind = [f"{name}: {server['error']}" for name, server in where.items() if server["error"]]
    note(
        "decide",
        "valkey_settings",
        "nobody could log in, so files were read: what was set at run time is not seen",
        blind,
    )
    modules = [name for name, server in where.items() if "loadmodule" in server["declared"]]
    note("decide", "valkey_settings", "modules are loaded; they have to be installed on every host", modules)
    return notes


def _users(
    servers: list[tuple[str, Mapping[str, Any]]], defaults: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Note]]:
    """Return (valkey_users, notes), of the first server; a cluster needs the same users everywhere."""
    first_name, first = servers[0]
    notes = []
    order = [user["name"] for user in first["declared_users"]]
    listed = sorted(first["users"], key=lambda user: order.index(user["name"]) if user["name"] in order else len(order))
    known = {user["name"]: user for user in listed}
    for name, server in servers[1:]:
        if {user["name"] for user in server["users"]} != known.keys():
            notes.append(
                Note(
                    AREA,
                    "decide",
                    "valkey_users",
                    f"{name}:{server['port']} has other users than {first_name}:{first['port']}",
                )
            )
    found = []
    for user in known.values():
        if user["name"] in RESERVED_USERS:
            notes += _own_user(user)
            continue
        if not user["enabled"]:
            notes.append(Note(AREA, "lost", "valkey_users", f"{user['name']} is switched off"))
            continue
        written = next(
            (each["rules"] for each in first["declared_users"] if each["name"] == user["name"]), user["rules"]
        )
        text = written if rules_key(written) == rules_key(user["rules"]) else user["rules"]
        rules = {} if rules_key(text) == rules_key(str(defaults["valkey_user_rules"])) else {"rules": text}
        found.append({"name": user["name"], **rules})
        text = (
            f"the password of the user {user['name']}: the file valkey_user_{user['name']} in cluster_secrets_dir, before the first run; "
            "where it is missing, the user gets a new one and applications are refused"
        )
        notes.append(Note(AREA, "secret", "valkey_users", text))
        if user["passwords"] > 1:
            notes.append(
                Note(
                    AREA,
                    "secret",
                    "valkey_previous_passwords",
                    f"{user['name']} has {user['passwords']} passwords: all but the newest",
                )
            )
        if user["nopass"]:
            notes.append(
                Note(AREA, "decide", "valkey_users", f"{user['name']} needs no password now; from then on it does")
            )
    return ({"valkey_users": found} if found else {}), notes


def _own_user(user: Mapping[str, Any]) -> list[Note]:
    if user["name"] == "default":
        text = "clients log in as the user default (without a name); the role switches it off: give them a user in valkey_users first"
        return [Note(AREA, "decide", "valkey_users", text)] if user["enabled"] else []
    if user["name"] in ("admin", "replication"):
        text = f"the password of the user {user['name']}: the file valkey_{user['name']} in cluster_secrets_dir"
        return [Note(AREA, "secret", f"cluster_valkey_{user['name']}_password", text)]
    return []


def _instances(
    hosts: Mapping[str, Host], view: View, single: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, Any]
) -> tuple[dict[str, dict[str, Any]], list[Note]]:
    """Return (valkey_instances and memory by host, notes)."""
    weights, notes = _weights(view)
    found: dict[str, dict[str, Any]] = {}
    for name, host in hosts.items():
        servers = [server for server in host.valkey if server["cluster_enabled"]]
        if not servers:
            continue
        memory, fixed = _memory(host, servers)
        instances = []
        for server in sorted(servers, key=lambda each: int(each["port"])):
            port = int(server["port"])
            own = next(
                (
                    weights[node.id]
                    for node in parse_nodes(str(server["nodes"])).nodes
                    if node.myself and node.id in weights
                ),
                None,
            )
            # Variables that not all servers share can only be settings of one instance.
            settings = _as_settings(single.get(f"{name}:{port}", {}))
            entry = {"port": port, "maxmemory": fixed.get(port), "weight": own, "settings": settings or None}
            instances.append({key: value for key, value in entry.items() if value is not None})
            notes += _port_notes(name, server)
        found[name] = {"valkey_instances": instances, **memory}
        unlimited = [f"{name}:{server['port']}" for server in servers if _value(server, "maxmemory", "0") == "0"]
        if unlimited:
            text = f"without maxmemory: {listing(unlimited)}; the role sets it from valkey_memory_fraction"
            notes.append(Note(AREA, "decide", "valkey_memory_fraction", text))
    return found, notes


def _port_notes(name: str, server: Mapping[str, Any]) -> list[Note]:
    me = parse_nodes(str(server["nodes"])).myself
    if me.bus_port in (0, int(server["port"]) + BUS_PORT_OFFSET):
        return []
    return [
        Note(
            AREA,
            "lost",
            "valkey_instances",
            f"{name}:{server['port']} has its bus on {me.bus_port}; the role takes the port + {BUS_PORT_OFFSET}",
        )
    ]


def _as_settings(single: Mapping[str, Any]) -> dict[str, Any]:
    names = {variable: name for table in (_BOOLEANS, _NUMBERS, _TEXTS) for name, variable in table.items()}
    found = {names[variable]: value for variable, value in single.items() if variable in names}
    if "valkey_save" in single:
        found["save"] = " ".join(single["valkey_save"])
    if "valkey_replica_buffer" in single:
        found["client-output-buffer-limit"] = f"replica {single['valkey_replica_buffer']}"
    return {**found, **single.get("valkey_settings", {})}


def _memory(host: Host, servers: list[Mapping[str, Any]]) -> tuple[dict[str, Any], dict[int, str]]:
    """Return (valkey_memory_fraction where it explains maxmemory, else maxmemory by port).

    The role's own default is 0.2 on a host with PostgreSQL, else 0.6.
    """
    sizes = {int(server["port"]): parse_size(_value(server, "maxmemory", "0")) or 0 for server in servers}
    if not any(sizes.values()):
        return {}, {}
    usual = 0.2 if host.patroni or host.postgresql else 0.6
    total = host.memory * _MIB
    guess = round(sum(sizes.values()) / total, 2) if total else 0.0
    for fraction in (usual, guess):
        if _explains(fraction, total, sizes):
            return ({} if fraction == usual else {"valkey_memory_fraction": fraction}), {}
    return {}, {port: _size_text(str(size)) for port, size in sizes.items() if size}


def _explains(fraction: float, total: int, sizes: Mapping[int, int]) -> bool:
    try:
        shares = share_memory(total, fraction, dict.fromkeys(sizes))
    except Refusal:
        return False
    return all(abs(shares[port] - size) <= _GRAIN for port, size in sizes.items()) and 0 < fraction <= 1


def _weights(view: View) -> tuple[dict[str, float], list[Note]]:
    """Return the weight of each primary where slots are not spread evenly, so that none has to move."""
    counts = {
        node.id: ranges.count(node.slots) for node in view.nodes if node.is_primary and not node.failed and node.slots
    }
    if not counts or max(counts.values()) - min(counts.values()) <= 1:
        return {}, []
    even = ranges.SLOT_COUNT / len(counts)
    text = "slots are not spread evenly; weights keep them nearly where they are, and without them site.yml spreads them evenly"
    return {node: round(count / even, 3) for node, count in counts.items()}, [
        Note(AREA, "decide", "valkey_instances", text)
    ]
