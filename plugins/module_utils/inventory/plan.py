# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""From what hosts say to the inventory that keeps them. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import (
    balancer,
    content,
    hba,
    settings,
    valkey,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import (
    Host,
    Note,
    Part,
    Plan,
    common,
    listing,
    unlike_default,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import KNOWN_GROUPS
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.network import parse_address
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

POSTGRESQL_PORT = 5432
# Patroni's sections for stores that are not etcd.
_STORES = ("consul", "exhibitor", "kubernetes", "raft", "zookeeper")
_OWN_SECRETS = (
    ("superuser", "cluster_postgresql_superuser_password", "postgresql_superuser"),
    ("replication", "cluster_postgresql_replication_password", "postgresql_replication"),
    ("rewind", "cluster_postgresql_rewind_password", "postgresql_rewind"),
)
# The names of Patroni's users under this collection.
_OWN_NAMES = {"superuser": "postgres", "replication": "replicator", "rewind": "rewinder"}


def plan(hosts: Sequence[Host], defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> Plan:
    """Return the inventory. defaults: of the roles; fixed: variables of the roles themselves. Raises Refusal."""
    _refuse_nothing(hosts)
    names = _names(hosts)
    named = {names[host.name]: host for host in hosts}
    patroni = {name: host for name, host in named.items() if host.patroni}
    cluster_name = _cluster_name(patroni)
    known = {**defaults, "__patroni_parameters": fixed["__patroni_parameters"]}
    parts = {"cluster": _cluster(named, patroni, fixed)}
    demands: list[bool] = []
    if patroni:
        parts["postgresql"], demanded = _postgresql(named, patroni, known, fixed)
        demands.append(demanded)
    pools = {name: host for name, host in named.items() if host.facts.get("pgbouncer") or host.facts.get("haproxy")}
    if pools:
        real = [each["name"] for each in parts.get("postgresql", Part()).variables.get("patroni_databases", [])]
        parts["balancer"] = balancer.plan(pools, real, defaults)
    servers = {name: host for name, host in named.items() if any(server["cluster_enabled"] for server in host.valkey)}
    parts["valkey"] = valkey.plan({name: host for name, host in named.items() if host.valkey}, defaults)
    groups, told = _groups(named, patroni, pools, servers)
    variables = {area: dict(part.variables) for area, part in parts.items()}
    variables["cluster"] |= unlike_default({"cluster_name": cluster_name or None}, defaults) | _certificates(
        demands, pools, servers
    )
    _beside_the_name(variables)
    return Plan(
        name=cluster_name or "valkey",
        hosts={name: _merged([part.hosts.get(name, {}) for part in parts.values()]) for name in named},
        groups=groups,
        variables={area: found for area, found in variables.items() if found},
        notes=(*(note for part in parts.values() for note in part.notes), *told),
    )


def _refuse_nothing(hosts: Sequence[Host]) -> None:
    if any(host.patroni or any(server["cluster_enabled"] for server in host.valkey) for host in hosts):
        return
    alone = [host.name for host in hosts if host.postgresql]
    if alone:
        raise Refusal(
            f"{listing(alone)}: PostgreSQL runs without Patroni", "adopt.yml takes such a server into a cluster"
        )
    raise Refusal(
        f"neither Patroni nor a Valkey cluster runs on {listing(host.name for host in hosts)}",
        "Give the hosts of a running cluster, and let Ansible become root there",
    )


def _names(hosts: Sequence[Host]) -> dict[str, str]:
    """Return the name of each host in the new inventory: Patroni's, since the role calls members by their hosts. Raises Refusal."""
    found = {host.name: str((host.patroni.get("config") or {}).get("name") or host.name) for host in hosts}
    twice = sorted({name for name in found.values() if list(found.values()).count(name) > 1})
    if twice:
        both = listing(host for host, name in found.items() if name == twice[0])
        raise Refusal(
            f"{both} have one name, {twice[0]}, and hosts of an inventory need their own", "Give each host once"
        )
    return found


def _cluster_name(patroni: Mapping[str, Host]) -> str:
    scopes = {name: str(host.patroni["config"].get("scope") or "") for name, host in patroni.items()}
    if len(set(scopes.values())) > 1:
        told = listing(f"{scope} ({name})" for name, scope in scopes.items())
        raise Refusal(
            f"hosts belong to several clusters of Patroni: {told}; one is allowed in an inventory",
            "Give the hosts of one",
        )
    for name, host in patroni.items():
        members = [member["name"] for member in (host.patroni.get("members") or [])]
        missing = [member for member in members if member not in patroni]
        if missing:
            raise Refusal(
                f"the cluster {scopes[name]} has members that were not looked at: {listing(missing)}; found were {listing(patroni)}",
                "Give their hosts, too",
            )
    return next(iter(scopes.values()), "")


def _cluster(named: Mapping[str, Host], patroni: Mapping[str, Host], fixed: Mapping[str, Any]) -> Part:
    """Return how hosts are reached, where they are, and what their releases have."""
    notes: list[Note] = []
    per_host = {name: {**host.connection, **_place(name, host, notes)} for name, host in named.items()}
    shared, rest = common(per_host) if len(named) > 1 else ({}, per_host)
    for name in ("ansible_host", "cluster_address", "zone"):
        if name in shared:
            value = shared.pop(name)
            rest = {host: {name: value, **rest.get(host, {})} for host in named}
    for name, host in named.items():
        platform = fixed["cluster_platforms"].get(host.codename)
        if platform is None:
            text = f"{name} runs {host.codename or 'an unknown release'}; the collection knows {listing(fixed['cluster_platforms'])}"
            notes.append(Note("cluster", "decide", "hosts", text))
        elif (
            name in patroni
            and host.postgresql
            and int(host.postgresql["version"]) != int(platform["postgresql"]["version"])
        ):
            usual = platform["postgresql"]["version"]
            text = (
                f"{name} has PostgreSQL {host.postgresql['version']}, {host.codename} brings {usual}: upgrade it first"
            )
            notes.append(Note("cluster", "decide", "cluster_postgresql_version", text))
        if name != host.name:
            notes.append(
                Note(
                    "cluster",
                    "decide",
                    "hosts",
                    f"{host.name} is called {name} here, as Patroni calls it: a member's name can't be changed",
                )
            )
    return Part(variables=shared, hosts=rest, notes=tuple(notes))


def _place(name: str, host: Host, notes: list[Note]) -> dict[str, Any]:
    """Return ansible_host, cluster_address and zone, as far as they are needed."""
    reached = str(host.connection.get("ansible_host") or host.name)
    found: dict[str, Any] = {"ansible_host": reached} if reached != name else {}
    address = _address(host)
    if address and address != reached:
        found["cluster_address"] = address
    elif not address and parse_address(reached) is None and host.addresses:
        found["cluster_address"] = host.addresses[0]
        text = f"{name} is known by names only; {host.addresses[0]} is the first address of its interfaces"
        notes.append(Note("cluster", "decide", "cluster_address", text))
    zones = {
        str(server["live"].get("availability-zone") or server["declared"].get("availability-zone") or "")
        for server in host.valkey
    }
    if len(zones) == 1 and zones != {""}:
        found["zone"] = zones.pop()
    return found


def _address(host: Host) -> str:
    """Return the IP address by which other hosts know this one, as its services say, empty where they name none."""
    config = host.patroni.get("config") or {}
    said = [(config.get(section) or {}).get("connect_address") for section in ("postgresql", "restapi")]
    found = [str(address).rpartition(":")[0].strip("[]") for address in said if address]
    for server in host.valkey:
        found.append(
            str(server["live"].get("cluster-announce-ip") or server["declared"].get("cluster-announce-ip") or "")
        )
    return next((address for address in found if parse_address(address) is not None), "")


def _reached(name: str, host: Host) -> str:
    """Return the address or name by which other hosts reach this one."""
    return _address(host) or str(host.connection.get("ansible_host") or name)


def _postgresql(
    named: Mapping[str, Host], patroni: Mapping[str, Host], defaults: Mapping[str, Any], fixed: Mapping[str, Any]
) -> tuple[Part, bool]:
    """Return everything about PostgreSQL and Patroni, and whether applications need a client certificate there."""
    leader_name = next(
        (name for name, host in patroni.items() if host.postgresql and not host.postgresql["replica"]), ""
    )
    leader = patroni[leader_name] if leader_name else next(iter(patroni.values()))
    dynamic = leader.patroni.get("dynamic") or {}
    config = leader.patroni["config"]
    authentication = (config.get("postgresql") or {}).get("authentication") or {}
    users = [
        str(section["username"])
        for section in authentication.values()
        if isinstance(section, Mapping) and section.get("username")
    ]
    notes = _patroni_notes(patroni, leader_name)
    lines = hba.lines_of(config, dynamic, leader.postgresql.get("hba") or [])
    addresses = [_reached(name, host) for name, host in patroni.items()]
    pools = [
        _reached(name, host) for name, host in named.items() if host.facts.get("pgbouncer") or host.facts.get("haproxy")
    ]
    allowed, demands = hba.plan(lines, addresses, pools, users)
    parts = [
        settings.patroni_variables(dynamic, defaults, fixed["cluster_timings"]),
        settings.parameters(leader, patroni, defaults),
        allowed,
        _members(patroni, defaults, fixed),
    ]
    if leader.postgresql:
        parts.append(content.plan(leader.postgresql["users"], leader.postgresql["databases"], users))
    hosts: dict[str, dict[str, Any]] = {}
    for part in parts:
        for name, variables in part.hosts.items():
            hosts.setdefault(name, {}).update(variables)
    own = any(host.patroni.get("own") for host in patroni.values())
    notes += _secrets(authentication, own)
    notes += _hidden(patroni, own)
    notes += [note for part in parts for note in part.notes]
    return Part(_merged([part.variables for part in parts]), hosts, tuple(notes)), demands


def _merged(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for part in parts for name, value in part.items()}


def _members(patroni: Mapping[str, Host], defaults: Mapping[str, Any], fixed: Mapping[str, Any]) -> Part:
    """Return what each member's own configuration says."""
    notes: list[Note] = []
    per_host = {}
    for name, host in patroni.items():
        config = host.patroni["config"]
        server = config.get("postgresql") or {}
        watchdog = config.get("watchdog") or {}
        bootstrap = config.get("bootstrap") or {}
        version = host.postgresql.get("version") or (fixed["cluster_platforms"].get(host.codename) or {}).get(
            "postgresql", {}
        ).get("version")
        usual = f"/var/lib/postgresql/{version}/{config.get('scope')}"
        found = {
            **_ports(config),
            "patroni_data_dir": server.get("data_dir") if server.get("data_dir") != usual else None,
            "patroni_tags": {
                tag: value for tag, value in (config.get("tags") or {}).items() if value not in (False, None, "")
            }
            or None,
            "patroni_initdb": bootstrap.get("initdb"),
            "patroni_watchdog": _watchdog(watchdog.get("mode", "automatic")),
            "patroni_watchdog_device": watchdog.get("device"),
            "patroni_log_level": _level((config.get("log") or {}).get("level", "INFO")),
        }
        per_host[name] = unlike_default(found, defaults)
        notes += _member_notes(name, config)
    shared, rest = common(per_host)
    tags = shared.pop("patroni_tags", None)
    if tags:
        rest = {name: {**rest.get(name, {}), "patroni_tags": tags} for name in patroni}
    return Part(shared, rest, tuple(dict.fromkeys(notes)))


def _ports(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ports by which members know each other, None where the configuration has none, or several."""
    address = str((config.get("restapi") or {}).get("connect_address") or "")
    etcd = config.get("etcd3") or {}
    hosts = etcd.get("hosts") or etcd.get("host") or []
    hosts = hosts.split(",") if isinstance(hosts, str) else hosts
    ports = {port for port in (str(host).strip().rpartition(":")[2] for host in hosts) if port.isdigit()}
    patroni = address.rpartition(":")[2]
    return {
        "cluster_port_patroni": int(patroni) if patroni.isdigit() else None,
        "cluster_port_etcd_client": int(ports.pop()) if len(ports) == 1 else None,
    }


def _watchdog(mode: Any) -> str:
    return "off" if mode in (False, "off") else str(mode)


def _level(level: Any) -> str | None:
    return str(level) if level in ("DEBUG", "INFO", "WARNING", "ERROR") else None


def _member_notes(name: str, config: Mapping[str, Any]) -> list[Note]:
    notes = []

    def note(kind: str, about: str, text: str) -> None:
        notes.append(Note("postgresql", kind, about, text))

    namespace = str(config.get("namespace", "/service/")).strip("/")
    if namespace != "service":
        note(
            "lost",
            "namespace",
            f"Patroni's namespace is /{namespace}/, the role's is /service/: the cluster's keys have to be moved in etcd",
        )
    found = str((config.get("postgresql") or {}).get("connect_address") or "").rpartition(":")[2]
    if found.isdigit() and int(found) != POSTGRESQL_PORT:
        note(
            "lost",
            "postgresql",
            f"PostgreSQL of {name} listens on {found}; the role's port is {POSTGRESQL_PORT}, which no variable changes",
        )
    store = next((name for name in _STORES if name in config), "")
    if store:
        note(
            "decide",
            "etcd",
            f"the cluster's state is in {store}; this collection runs Patroni on etcd: put three hosts into the group etcd",
        )
    if "etcd" in config:
        note(
            "decide",
            "etcd",
            "Patroni speaks etcd's API of version 2; the role uses version 3, where the cluster's keys are not",
        )
    server = config.get("postgresql") or {}
    if server.get("callbacks") and not any(
        "/usr/local/lib/holdfast/" in str(path) for path in server["callbacks"].values()
    ):
        note("lost", "callbacks", f"callbacks for {listing(sorted(server['callbacks']))} are the cluster's own")
    if server.get("pre_promote"):
        note("lost", "pre_promote", "the cluster's own program before a promotion is not called any more")
    methods = [
        method for method in server.get("create_replica_methods") or [] if method not in ("basebackup", "pgbackrest")
    ]
    if methods:
        note(
            "lost",
            "create_replica_methods",
            f"replicas are made by {listing(methods)}; the role takes pgBackRest and basebackup",
        )
    return notes


def _patroni_notes(patroni: Mapping[str, Host], leader: str) -> list[Note]:
    notes = []
    if not leader:
        text = "no host has a server that takes writes, so users and databases are those of a replica"
        notes.append(Note("postgresql", "decide", "patroni_standby_cluster", text))
    for name, host in patroni.items():
        if host.patroni.get("error"):
            text = f"Patroni of {name} was not asked ({host.patroni['error']}), so its own configuration is all that is known"
            notes.append(Note("postgresql", "decide", "patroni_dynamic_config", text))
        if host.facts.get("postgresql_error"):
            text = f"PostgreSQL of {name} was not asked ({host.facts['postgresql_error']}): what is in it is not known from there"
            notes.append(Note("postgresql", "decide", "patroni_users", text))
    return notes


def _secrets(authentication: Mapping[str, Any], own: bool) -> list[Note]:
    if own:
        text = (
            "this collection made the cluster: use the folder cluster_secrets_dir of the inventory that made it, with its passwords "
            "and its authority; without it preflight refuses"
        )
        return [Note("cluster", "secret", "cluster_secrets_dir", text)]
    notes = []
    for section, variable, secret in _OWN_SECRETS:
        name = (authentication.get(section) or {}).get("username")
        if name and name != _OWN_NAMES[section]:
            text = f"Patroni's user for {section} is {name}; the role makes {_OWN_NAMES[section]} and leaves {name} alone: drop it later"
            notes.append(Note("postgresql", "decide", variable, text))
        elif name:
            text = f"the password of {name}: the file {secret} in cluster_secrets_dir; a new one is unknown to the running members"
            notes.append(Note("postgresql", "secret", variable, text))
    text = (
        "members and clients get certificates of a new authority (tls_provider: internal), or of yours (tls_provider: own): "
        "clients have to trust it first"
    )
    notes.append(Note("cluster", "decide", "tls_provider", text))
    return notes


def _hidden(patroni: Mapping[str, Host], own: bool) -> list[Note]:
    """Return a note for each secret that was met and left on its host, but for those that _secrets tells of."""
    expected = ("postgresql.authentication.", "etcd3.password", "etcd.password", "restapi.authentication", "ctl.")
    found = {place for host in patroni.values() for place in host.patroni.get("hidden") or ()}
    return [
        Note("postgresql", "secret", "patroni_dynamic_config", f"{place} carries a secret and was left out")
        for place in sorted(found)
        if not place.startswith(expected)
    ]


def _groups(
    named: Mapping[str, Host], patroni: Mapping[str, Host], pools: Mapping[str, Host], servers: Mapping[str, Host]
) -> tuple[dict[str, tuple[str, ...]], list[Note]]:
    etcd = [name for name, host in named.items() if host.facts.get("etcd")]
    backup = [name for name, host in named.items() if host.facts.get("backup") and name not in patroni]
    members = {
        "etcd": etcd,
        "postgresql": list(patroni),
        "balancer": list(pools),
        "valkey": list(servers),
        "backup": backup,
    }
    notes = []
    if patroni and not etcd:
        text = (
            "no etcd runs on the hosts that were looked at: give its hosts, too, or put three hosts into the group etcd"
        )
        notes.append(Note("cluster", "decide", "etcd", text))
    if patroni and not pools:
        text = "neither PgBouncer nor HAProxy runs there: without the group balancer applications find the primary themselves"
        notes.append(Note("cluster", "decide", "balancer", text))
    unused = [name for name in named if not any(name in found for found in members.values())]
    if unused:
        notes.append(
            Note(
                "cluster", "decide", "hosts", f"nothing of the cluster runs on {listing(unused)}, which are in no group"
            )
        )
    return {group: tuple(members[group]) for group in KNOWN_GROUPS if members.get(group)}, notes


def _certificates(demands: list[bool], pools: Mapping[str, Host], servers: Mapping[str, Host]) -> dict[str, Any]:
    """Return cluster_client_certificates where some service does without them now."""
    demands = [*demands, *balancer.demands_certificates(pools.values()), *valkey.demands_certificates(servers.values())]
    return {} if all(demands) else {"cluster_client_certificates": False}


def _beside_the_name(variables: dict[str, dict[str, Any]]) -> None:
    """Move what describes the whole cluster beside its name."""
    for area in list(variables):
        for name in [name for name in variables[area] if name.startswith("cluster_") and area != "cluster"]:
            variables["cluster"][name] = variables[area].pop(name)
