# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules about addresses, ports and the virtual address. No I/O."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Iterator
from typing import TypeAlias

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    VALKEY_BUS_OFFSET,
    Host,
    Inventory,
    Probe,
    Problem,
    archives,
    as_int,
    rule,
    valkey_ports,
)

Address: TypeAlias = "ipaddress.IPv4Address | ipaddress.IPv6Address"
Network: TypeAlias = "ipaddress.IPv4Network | ipaddress.IPv6Network"

_BUS = "cluster bus"

# Ports that an inventory may choose.
PORT_VARIABLE = "cluster_port_"
MEMBER_PORT_NAMES = ("etcd_client", "etcd_peer", "patroni", "pgbackrest")
BALANCER_PORT_NAMES = (
    "pgbouncer",
    "haproxy_read_write",
    "haproxy_read_only",
    "haproxy_synchronous",
    "haproxy_statistics",
)
PORT_NAMES = (*MEMBER_PORT_NAMES, *BALANCER_PORT_NAMES)
_PORT_READS = (
    "haproxy_liveness_port",
    "pgbackrest_repositories",
    "valkey_instances",
    *(PORT_VARIABLE + name for name in PORT_NAMES),
)

_LOWEST_PORT = 1024
_HIGHEST_PORT = 65535

# Which key of `cluster_ports` belongs to which group, and the processes that may own such a port already.
_GROUP_PORTS = {
    "etcd_client": ("etcd", "etcd"),
    "etcd_peer": ("etcd", "etcd"),
    "postgresql": ("postgresql", "postgres"),
    "patroni": ("postgresql", "patroni"),
    "pgbouncer": ("balancer", "pgbouncer"),
    "haproxy_read_write": ("balancer", "haproxy"),
    "haproxy_read_only": ("balancer", "haproxy"),
    "haproxy_synchronous": ("balancer", "haproxy"),
    "haproxy_statistics": ("balancer", "haproxy"),
}


def parse_address(text: str) -> Address | None:
    """Return an IP address, or None if the text isn't one."""
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


@rule("address_duplicate", "address_loopback", "address_not_ip")
def addresses(inventory: Inventory) -> Iterator[Problem]:
    """Refuse addresses that aren't IP addresses, that loop back, or that two hosts share."""
    owners: dict[Address, list[str]] = defaultdict(list)
    for host in inventory.stack:
        address = parse_address(host.address)
        if address is None:
            yield Problem(
                rule="address_not_ip",
                hosts=(host.name,),
                subject="cluster_address",
                found=repr(host.address),
                allowed="an IPv4 or IPv6 address, which peers and certificates name",
                remedy="set cluster_address to the host's address in the cluster's network",
            )
        elif (address.is_loopback or address.is_unspecified) and len(inventory.stack) > 1:
            yield Problem(
                rule="address_loopback",
                hosts=(host.name,),
                subject="cluster_address",
                found=f"{address}, which other hosts can't reach",
                allowed="an address in the cluster's network",
                remedy="set cluster_address to the host's address in the cluster's network",
            )
        if address is not None:
            owners[address].append(host.name)
    for address, names in owners.items():
        if len(names) > 1:
            yield Problem(
                rule="address_duplicate",
                hosts=tuple(names),
                subject="cluster_address",
                found=f"{address} on {len(names)} hosts",
                allowed="one address for each host",
                remedy="correct cluster_address or ansible_host of all but one of them",
            )


@rule("address_not_on_host")
def address_on_host(inventory: Inventory) -> Iterator[Problem]:
    """Refuse an address that no interface of the probed host has: no service could listen there."""
    for host, probe in inventory.probed():
        address = parse_address(host.address)
        present = [item.address for item in probe.interfaces]
        if address is None or address.is_loopback or not present:
            continue
        if address not in map(parse_address, present):
            yield Problem(
                rule="address_not_on_host",
                hosts=(host.name,),
                subject="cluster_address",
                found=f"{address}, while the host has {', '.join(present)}",
                allowed="an address of one of the host's interfaces",
                remedy="set cluster_address to the address at which the peers reach the host",
            )


def services(host: Host, inventory: Inventory) -> list[tuple[int, str, str]]:
    """Return (port, service, process) for everything that the collection will listen on, on a host."""
    declared = ports_of(host, inventory)
    ports = [
        (declared[key], key.replace("_", " "), process)
        for key, (group, process) in _GROUP_PORTS.items()
        if group in host.groups and key in declared
    ]
    if "pgbackrest" in declared and archives(inventory, host):
        ports.append((declared["pgbackrest"], "pgbackrest", "pgbackrest"))
    liveness = as_int(host.value("haproxy_liveness_port"))
    if "balancer" in host.groups and liveness:
        ports.append((liveness, "haproxy liveness", "haproxy"))
    if "valkey" in host.groups:
        for port in valkey_ports(host):
            ports.append((port, f"Valkey instance {port}", "valkey-server"))
            ports.append((port + VALKEY_BUS_OFFSET, f"{_BUS} of Valkey instance {port}", "valkey-server"))
    return ports


def ports_of(host: Host, inventory: Inventory) -> dict[str, int]:
    """Return the cluster's ports by name as a host has them; one that is not a number is left to the rule bad_value."""
    chosen = {name: as_int(host.value(PORT_VARIABLE + name)) for name in PORT_NAMES}
    return {**inventory.collection.ports, **{name: port for name, port in chosen.items() if port is not None}}


@rule("port_clash", "port_range", reads=_PORT_READS)
def port_clashes(inventory: Inventory) -> Iterator[Problem]:
    """Refuse two services on one port of a host, and ports that Valkey can't use."""
    for host in inventory.stack:
        users: dict[int, list[str]] = defaultdict(list)
        for port, service, _process in services(host, inventory):
            users[port].append(service)
        for port, names in users.items():
            twice_the_same = len(set(names)) == 1 and names[0].startswith(_BUS)  # said at the instance's own port
            if len(names) > 1 and not twice_the_same:
                yield Problem(
                    rule="port_clash",
                    hosts=(host.name,),
                    subject=f"port {port}",
                    found=" and ".join(names if len(set(names)) > 1 else [f"{len(names)} times {names[0]}"]),
                    allowed="one service a port (a Valkey instance also takes its port + 10000 for the cluster bus)",
                    remedy="give each entry of valkey_instances and each cluster_port_... a port that nothing else on the host uses",
                )
        yield from _chosen_out_of_range(host, inventory)
        if "valkey" not in host.groups:
            continue
        for port in valkey_ports(host):
            if not _LOWEST_PORT <= port <= _HIGHEST_PORT - VALKEY_BUS_OFFSET:
                yield Problem(
                    rule="port_range",
                    hosts=(host.name,),
                    subject="valkey_instances",
                    found=f"port {port}",
                    allowed=f"{_LOWEST_PORT} to {_HIGHEST_PORT - VALKEY_BUS_OFFSET}; the bus takes port + 10000",
                    remedy="choose a port in the range, such as 7001",
                )


def _chosen_out_of_range(host: Host, inventory: Inventory) -> Iterator[Problem]:
    declared = ports_of(host, inventory)
    used = {port for port, _service, _process in services(host, inventory)}
    for name in PORT_NAMES:
        port = declared.get(name, _LOWEST_PORT)
        if port in used and not _LOWEST_PORT <= port <= _HIGHEST_PORT:
            yield Problem(
                rule="port_range",
                hosts=(host.name,),
                subject=PORT_VARIABLE + name,
                found=f"port {port}",
                allowed=f"{_LOWEST_PORT} to {_HIGHEST_PORT}",
                remedy="choose a port in the range",
            )


@rule("port_taken", reads=_PORT_READS)
def port_taken(inventory: Inventory) -> Iterator[Problem]:
    """Refuse ports on which something that isn't ours already listens."""
    for host, probe in inventory.probed():
        wanted = {port: (service, process) for port, service, process in services(host, inventory)}
        for listener in _foreign_listeners(host, probe, wanted):
            yield Problem(
                rule="port_taken",
                hosts=(host.name,),
                subject=f"port {listener[0]}",
                found=f"{listener[1]} listens on it",
                allowed=f"free for {wanted[listener[0]][0]}",
                remedy="stop and disable that service, or move it to another port"
                + _choice(listener[0], host, inventory),
            )


@rule("port_moved", reads=_PORT_READS)
def port_moved(inventory: Inventory) -> Iterator[Problem]:
    """Refuse another port for what members of a running cluster know each other by: they would lose each other."""
    for host, probe in inventory.probed():
        declared = ports_of(host, inventory)
        for name, process in _standing(host, probe):
            ports = sorted({item.port for item in probe.listeners if item.process.startswith(process)})
            port = declared.get(name)
            if ports and port not in ports:
                yield Problem(
                    rule="port_moved",
                    hosts=(host.name,),
                    subject=PORT_VARIABLE + name,
                    found=f"{port}, while {process} of the running cluster listens on {', '.join(map(str, ports))}",
                    allowed="the port that the running cluster has",
                    remedy=f"set {PORT_VARIABLE}{name} back; only a new cluster takes another port",
                )


def _standing(host: Host, probe: Probe) -> Iterator[tuple[str, str]]:
    """Return (name of the port, process) for the members of this cluster that the host has already."""
    name = str(host.value("cluster_name", ""))
    if any(item.populated and item.configured and item.owner == name for item in probe.etcd_dirs):
        yield from (("etcd_client", "etcd"), ("etcd_peer", "etcd"))
    if name and probe.patroni_scope == name:
        yield from (("patroni", "patroni"), ("pgbackrest", "pgbackrest"))


def _choice(port: int, host: Host, inventory: Inventory) -> str:
    """Name the variable that moves our own service, where there is one."""
    declared = ports_of(host, inventory)
    names = [name for name in PORT_NAMES if declared.get(name) == port]
    return f"; or set {PORT_VARIABLE}{names[0]} to another port" if names else ""


def _foreign_listeners(host: Host, probe: Probe, wanted: dict[int, tuple[str, str]]) -> Iterator[tuple[int, str]]:
    address = parse_address(host.address)
    seen = set()
    for listener in probe.listeners:
        if listener.port not in wanted or not listener.process or listener.port in seen:
            continue
        listens_on = parse_address(listener.address)
        if (
            listens_on is not None
            and not listens_on.is_unspecified
            and listens_on not in (address, _localhost(listens_on))
        ):
            continue
        expected = wanted[listener.port][1]
        # Patroni is a Python program; the kernel may know it by either name.
        ours = listener.process.startswith(expected) or (
            expected == "patroni" and listener.process.startswith("python3")
        )
        if ours and expected == "postgres" and listener.directory:
            ours = probe.patroni_real_dir == listener.directory
        if not ours:
            seen.add(listener.port)
            at = f" (in {listener.directory})" if listener.process == "postgres" and listener.directory else ""
            yield listener.port, f"the process {listener.process}{at}"


def _localhost(address: Address) -> Address | None:
    return address if address.is_loopback else None


@rule("vip_is_host", "vip_network", "vip_not_ip", "vip_without_balancer", reads=("cluster_vip_prefix",))
def virtual_address(inventory: Inventory) -> Iterator[Problem]:
    """Refuse a virtual address that isn't one, that a host owns, or that lies outside the balancers' network."""
    for host in inventory.members("balancer") or inventory.stack[:1]:
        text = str(host.value("cluster_vip") or "")
        if text:
            yield from _judge_vip(text, host, inventory)


def _judge_vip(text: str, host: Host, inventory: Inventory) -> Iterator[Problem]:
    vip = parse_address(text)
    if vip is None:
        yield _vip_problem("vip_not_ip", host, repr(text), "an IPv4 or IPv6 address without a prefix length")
        return
    if "balancer" not in host.groups:
        yield _vip_problem(
            "vip_without_balancer", host, f"{vip}, and no host in the group balancer", "balancers that hold it"
        )
        return
    owners = [other.name for other in inventory.stack if parse_address(other.address) == vip]
    if owners:
        yield _vip_problem(
            "vip_is_host", host, f"{vip}, the address of {', '.join(owners)}", "an address that no host has"
        )
        return
    network = _network_of(host)
    if network is None:
        return
    if vip not in network:
        yield _vip_problem("vip_network", host, f"{vip} outside {network}", "an address inside the balancers' network")
    elif network.num_addresses > 2 and vip in (network.network_address, _broadcast(network)):
        yield _vip_problem("vip_network", host, f"{vip}, reserved in {network}", "an ordinary address of the network")


def _broadcast(network: Network) -> Address | None:
    return network.broadcast_address if network.version == 4 else None


def _network_of(host: Host) -> Network | None:
    """Network of a host's address: by its interface where probed, else by the declared prefix length."""
    address = parse_address(host.address)
    if address is None:
        return None
    prefix = as_int(host.value("cluster_vip_prefix", 24))
    if host.probe is not None:
        for item in host.probe.interfaces:
            if parse_address(item.address) == address:
                prefix = item.prefix
    if prefix is None or not 0 <= prefix <= address.max_prefixlen:
        return None
    return ipaddress.ip_network(f"{address}/{prefix}", strict=False)


def _vip_problem(rule: str, host: Host, found: str, allowed: str) -> Problem:
    return Problem(
        rule=rule,
        hosts=(host.name,),
        subject="cluster_vip",
        found=found,
        allowed=allowed,
        remedy="set cluster_vip to a free address in the balancers' network, or leave it empty for none",
    )
