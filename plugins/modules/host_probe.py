#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that looks at a host, for the preflight."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_probe
short_description: Look at everything on a host that an installation depends on
version_added: 0.1.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Reads the release, memory, clock, file systems, addresses, listening ports and existing data directories of a host,
    in one task.
  - It needs nothing on the host but Python and starts no other program. It changes nothing.
  - An action plugin adds O(ignore:clock), the bounds of the difference between the host's clock and the controller's.
  - Owners of ports and contents of data directories are only visible to root.
attributes:
  check_mode:
    description: The module only reads.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
options:
  paths:
    description: Paths whose file systems are measured. A path that is missing counts as its nearest existing parent.
    type: list
    elements: path
    default: [/var/lib/etcd, /var/lib/postgresql, /var/lib/valkey, /var/lib/pgbackrest]
  postgresql_root:
    description: Folder of PostgreSQL data directories; each is C(<version>/<name>) below it.
    type: path
    default: /var/lib/postgresql
  postgresql_data_dirs:
    description: PostgreSQL data directories that may lie elsewhere. Their file systems are measured, too.
    type: list
    elements: path
    default: []
  etcd_root:
    description: Folder of etcd data directories.
    type: path
    default: /var/lib/etcd
  etcd_data_dirs:
    description: Data directories of etcd that may lie elsewhere. Their file systems are measured, too.
    type: list
    elements: path
    default: []
  valkey_root:
    description: Folder of Valkey data directories, one an instance.
    type: path
    default: /var/lib/valkey
  etc:
    description: Folder of the services' configurations.
    type: path
    default: /etc
  tls_dir:
    description: Folder of the host's certificates.
    type: path
    default: /etc/ssl/holdfast
  initdb:
    description: Options of C(initdb) as the role C(patroni) takes them. The host is asked for the locales that they name.
    type: raw
    default: []
seealso:
  - module: holdfast.persistence.preflight
"""

EXAMPLES = r"""
- name: Look at the host
  holdfast.persistence.host_probe:
  register: probe

- name: Measure the file systems of data directories that lie elsewhere
  holdfast.persistence.host_probe:
    postgresql_data_dirs: [/srv/postgresql/orders]
    etcd_data_dirs: [/srv/etcd/orders]
  register: probe
"""

RETURN = r"""
os:
  description: Release of the operating system, with V(id), V(codename) and V(name).
  type: dict
  returned: always
  sample: {id: debian, codename: trixie, name: Debian GNU/Linux 13 (trixie)}
architecture:
  description: Architecture of the machine.
  type: str
  returned: always
  sample: x86_64
python:
  description: Version of the Python that ran the module.
  type: str
  returned: always
  sample: 3.13.5
memory_mib:
  description: Memory the host may use, in MiB; a control group's limit counts if it is lower.
  type: int
  returned: always
  sample: 16011
memory_total_mib:
  description: Memory the host has, in MiB.
  type: int
  returned: always
  sample: 16011
cpus:
  description: Number of processors the host may use.
  type: int
  returned: always
  sample: 8
systemd:
  description: Whether systemd is process 1.
  type: bool
  returned: always
  sample: true
container:
  description: Kind of container the host is, empty for a machine.
  type: str
  returned: always
  sample: docker
time:
  description:
    - First reading of the clock in seconds since the epoch (V(wall)), seconds from there to the end
      (V(elapsed)), and whether the kernel says that the clock is synchronised (V(synchronized), null if it won't tell).
  type: dict
  returned: always
  sample: {wall: 1764000000.25, elapsed: 0.031, synchronized: true}
clock:
  description: Least (V(low)) and greatest (V(high)) lead of the host's clock over the controller's, in seconds.
  type: dict
  returned: always
  sample: {low: -0.021, high: 0.034}
interfaces:
  description: Addresses, each with V(name) of the interface, V(address) and V(prefix) length in bits.
  type: list
  elements: dict
  returned: always
  sample: [{name: eth0, address: 192.0.2.11, prefix: 24}]
listeners:
  description: Listening TCP sockets, each with V(port), V(address), V(process) and its working V(directory).
  type: list
  elements: dict
  returned: always
  sample: [{port: 22, address: 0.0.0.0, process: sshd, directory: /}]
filesystems:
  description: File systems of O(paths), each with V(path), V(mount), V(free_mib), V(size_mib) and V(read_only).
  type: list
  elements: dict
  returned: always
  sample: [{path: /var/lib/etcd, mount: /, free_mib: 81920, size_mib: 102400, read_only: false}]
postgresql_dirs:
  description:
    - Directories that are or could be PostgreSQL's, each with V(path), V(version), V(system_identifier), whether it is V(empty),
      the place behind symbolic links (V(real)), whether that is a file system's own folder (V(mount)), and the place of its C(pg_wal)
      (V(wal)).
  type: list
  elements: dict
  returned: always
  sample: [{path: /srv/data, version: "17", system_identifier: "7574563", empty: false, real: /srv/data, mount: false, wal: /srv/wal/lab}]
etcd_dirs:
  description:
    - Directories of etcd, each with V(path), whether it is V(populated), whether the host is V(configured) for it,
      and its V(owner)'s cluster token.
  type: list
  elements: dict
  returned: always
  sample: [{path: /var/lib/etcd/holdfast, populated: true, configured: true, owner: holdfast}]
valkey_dirs:
  description:
    - Directories of Valkey, each with V(path), whether it is V(populated), whether an instance is V(configured) for it,
      and V(owner), which is V(cluster) if that is an instance in cluster mode.
  type: list
  elements: dict
  returned: always
  sample: [{path: /var/lib/valkey/7001, populated: true, configured: true, owner: cluster}]
patroni:
  description:
    - V(scope) and V(data_dir) of Patroni's configuration, and the latter behind symbolic links (V(real_dir)).
    - Empty without a configuration.
  type: dict
  returned: always
  sample:
    scope: holdfast
    data_dir: /var/lib/postgresql/17/holdfast
    real_dir: /var/lib/postgresql/17/holdfast
authorities:
  description: SHA-256 digests of the certificates of authorities that the host trusts, of C(ca.crt) in O(tls_dir).
  type: list
  elements: str
  returned: always
  sample: [7ea24e0b9486ad28997e5d3731b8b80603bff9e4b48fb0b6421adc6312e95c20]
missing_locales:
  description: Locales in O(initdb) that the host does not have.
  type: list
  elements: str
  returned: always
  sample: [de_DE.UTF-8]
secrets:
  description: Names of the secrets with which C(site.yml) has set the cluster up, without their values.
  type: list
  elements: str
  returned: always
  sample: [etcd_patroni, etcd_root]
"""

import ctypes
import locale
import os
import platform
import socket
import struct
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import parse
from ansible_collections.holdfast.persistence.plugins.module_utils.tls.authority import digests

_MIB = 1024 * 1024

# sys/timex.h
_STA_UNSYNC = 0x0040
_TIMEX_STATUS_OFFSET = 5 * ctypes.sizeof(ctypes.c_long)
_TIMEX_SIZE = 512  # more than the structure has on any architecture

# linux/netlink.h, linux/rtnetlink.h
_NETLINK_ROUTE = 0
_RTM_GETADDR = 22
_NLM_F_REQUEST_DUMP = 0x0301


def read_text(path):
    """Return the text of a file, empty if there is none."""
    return read_bytes(path).decode("utf-8", "replace")


def read_bytes(path):
    """Return the content of a file, empty if there is none or the kernel does not show it."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError, PermissionError, ProcessLookupError):
        return b""


def names(path):
    """Return the names in a folder, sorted; none if there is no such folder."""
    try:
        return sorted(os.listdir(path))
    except (FileNotFoundError, NotADirectoryError, PermissionError, ProcessLookupError):
        return []


def folders(path):
    """Return the paths of the folders in a folder."""
    return [full for full in (os.path.join(path, name) for name in names(path)) if os.path.isdir(full)]


def link(path):
    """Return where a symbolic link points, empty if it is gone or the kernel does not show it."""
    try:
        return os.readlink(path)
    except (FileNotFoundError, PermissionError, ProcessLookupError):
        return ""


def container():
    """Return the kind of container this is, as systemd or the engine recorded it; empty on machines."""
    kind = read_text("/run/systemd/container").strip()
    if kind:
        return kind
    for entry in read_bytes("/proc/1/environ").split(b"\0"):
        if entry.startswith(b"container="):
            return entry.partition(b"=")[2].decode("utf-8", "replace")
    if os.path.exists("/.dockerenv"):
        return "docker"
    return "podman" if os.path.exists("/run/.containerenv") else ""


def synchronized():
    """Ask the kernel whether its clock is synchronised; None if it won't tell.

    adjtimex(2) only reads when the field `modes` is 0.
    """
    buffer = ctypes.create_string_buffer(_TIMEX_SIZE)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.adjtimex(buffer) < 0:
        return None
    (status,) = struct.unpack_from("=i", buffer, _TIMEX_STATUS_OFFSET)
    return not status & _STA_UNSYNC


def interfaces():
    """Return the host's addresses, except those of the loopback and the links' own."""
    found = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_ROUTE) as netlink:
        netlink.settimeout(5)
        netlink.send(struct.pack("=IHHIIB3x", 20, _RTM_GETADDR, _NLM_F_REQUEST_DUMP, 1, 0, socket.AF_UNSPEC))
        last = False
        while not last:
            addresses, last = parse.interface_addresses(netlink.recv(65536))
            found += addresses
    return [
        {"name": socket.if_indextoname(index), "address": address, "prefix": prefix}
        for index, address, prefix in found
        if not address.startswith(("127.", "fe80:")) and address != "::1"
    ]


def listeners():
    """Return the listening sockets with their processes."""
    sockets = [item for table in ("tcp", "tcp6") for item in parse.listening(read_text("/proc/net/" + table))]
    owners = socket_owners({inode for _port, _address, inode in sockets})
    found = []
    for port, address, inode in sorted(sockets):
        pid = owners.get(inode)
        found.append(
            {
                "port": port,
                "address": address,
                "process": read_text(f"/proc/{pid}/comm").strip() if pid else "",
                "directory": link(f"/proc/{pid}/cwd") if pid else "",
            }
        )
    return found


def socket_owners(inodes):
    """Return the first process that holds each of the sockets, by inode."""
    owners = {}
    for pid in sorted((name for name in names("/proc") if name.isdigit()), key=int):
        for descriptor in names(f"/proc/{pid}/fd"):
            target = link(f"/proc/{pid}/fd/{descriptor}")
            if target.startswith("socket:["):
                inode = int(target[8:-1])
                if inode in inodes:
                    owners.setdefault(inode, int(pid))
    return owners


def filesystem(path):
    """Measure the file system of a path or of its nearest existing parent."""
    existing = path
    while not os.path.exists(existing):
        existing = os.path.dirname(existing)
    mount = os.path.realpath(existing)
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    room = os.statvfs(existing)
    return {
        "path": path,
        "mount": mount,
        "free_mib": room.f_bavail * room.f_frsize // _MIB,
        "size_mib": room.f_blocks * room.f_frsize // _MIB,
        "read_only": bool(room.f_flag & os.ST_RDONLY),
    }


def postgresql_dirs(root, more):
    """Return the folders two levels below root, and more of them that lie elsewhere."""
    paths = [path for version in folders(root) for path in folders(version)]
    return [
        {
            "path": path,
            "version": read_text(os.path.join(path, "PG_VERSION")).strip(),
            "system_identifier": parse.system_identifier(read_bytes(os.path.join(path, "global/pg_control"))),
            "empty": not names(path),
            "real": os.path.realpath(path),
            "mount": os.path.ismount(os.path.realpath(path)),
            "wal": os.path.realpath(f"{path}/pg_wal") if os.path.exists(f"{path}/pg_wal") else "",
        }
        for path in dict.fromkeys([*paths, *filter(os.path.isdir, more)])
    ]


def missing_locales(wanted):
    """Return the locales that the C library of this host does not have."""
    before = locale.setlocale(locale.LC_ALL)
    missing = []
    for name in wanted:
        try:
            locale.setlocale(locale.LC_ALL, name)
        except locale.Error:
            missing.append(name)
    locale.setlocale(locale.LC_ALL, before)
    return missing


def etcd_dirs(root, more, etc):
    """Return root's folders, more of them that lie elsewhere, and the one that etcd is configured for."""
    settings = parse.environment(read_text(os.path.join(etc, "default/etcd")))
    settings.update(parse.environment(read_text(os.path.join(etc, "default/etcd-bootstrap"))))
    # What Debian's unit says where its environment file doesn't.
    configured = settings.get("ETCD_DATA_DIR") or os.path.join(root, "default")
    return [
        {
            "path": path,
            "populated": bool(names(os.path.join(path, "member"))),
            "configured": path == configured,
            "owner": settings.get("ETCD_INITIAL_CLUSTER_TOKEN", "") if path == configured else "",
        }
        for path in dict.fromkeys([*folders(root), *filter(os.path.isdir, [*more, configured])])
    ]


def valkey_dirs(root, etc):
    """Return root's folders with what the instances' configurations say about them."""
    folder = os.path.join(etc, "valkey")
    owners = {}
    for name in names(folder):
        if name.endswith(".conf"):
            settings = parse.valkey(read_text(os.path.join(folder, name)))
            if settings["dir"]:
                owners[settings["dir"]] = "cluster" if settings["cluster"] else "single"
    return [
        {
            "path": path,
            "populated": bool(names(path)),
            "configured": path in owners,
            "owner": owners.get(path, ""),
        }
        for path in folders(root)
    ]


def patroni(etc):
    """Return what Patroni's configuration says, and where its data directory is behind symbolic links."""
    settings = parse.patroni(read_text(os.path.join(etc, "patroni/config.yml")))
    return {**settings, "real_dir": os.path.realpath(settings["data_dir"]) if settings["data_dir"] else ""}


def cgroup_limit():
    """Return the memory limit of the control group, empty if there is none."""
    return read_text("/sys/fs/cgroup/memory.max") or read_text("/sys/fs/cgroup/memory/memory.limit_in_bytes")


def probe(parameters):
    """Return everything but the clock's readings."""
    configured = patroni(parameters["etc"])
    data_dirs = [*parameters["postgresql_data_dirs"], *filter(None, [configured["data_dir"]])]
    measured = [*parameters["paths"], *parameters["postgresql_data_dirs"], *parameters["etcd_data_dirs"]]
    return {
        "os": parse.os_release(read_text("/etc/os-release")),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "memory_mib": parse.memory_mib(read_text("/proc/meminfo"), cgroup_limit()),
        "memory_total_mib": parse.memory_mib(read_text("/proc/meminfo"), ""),
        "cpus": len(os.sched_getaffinity(0)),
        "systemd": read_text("/proc/1/comm").strip() == "systemd",
        "container": container(),
        "interfaces": interfaces(),
        "listeners": listeners(),
        "filesystems": [filesystem(path) for path in dict.fromkeys(measured)],
        "postgresql_dirs": postgresql_dirs(parameters["postgresql_root"], data_dirs),
        "etcd_dirs": etcd_dirs(parameters["etcd_root"], parameters["etcd_data_dirs"], parameters["etc"]),
        "valkey_dirs": valkey_dirs(parameters["valkey_root"], parameters["etc"]),
        "patroni": configured,
        "missing_locales": missing_locales(parse.locales(parameters["initdb"])),
        "authorities": digests(read_text(os.path.join(parameters["tls_dir"], "ca.crt"))),
        "secrets": read_text(os.path.join(parameters["etc"], "holdfast/secrets")).split(),
    }


def main():
    """Run the module."""
    wall, started = time.time(), time.monotonic()
    module = AnsibleModule(
        argument_spec={
            "paths": {
                "type": "list",
                "elements": "path",
                "default": ["/var/lib/etcd", "/var/lib/postgresql", "/var/lib/valkey", "/var/lib/pgbackrest"],
            },
            "postgresql_root": {"type": "path", "default": "/var/lib/postgresql"},
            "postgresql_data_dirs": {"type": "list", "elements": "path", "default": []},
            "etcd_root": {"type": "path", "default": "/var/lib/etcd"},
            "etcd_data_dirs": {"type": "list", "elements": "path", "default": []},
            "valkey_root": {"type": "path", "default": "/var/lib/valkey"},
            "etc": {"type": "path", "default": "/etc"},
            "tls_dir": {"type": "path", "default": "/etc/ssl/holdfast"},
            "initdb": {"type": "raw", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        result = probe(module.params)
    except OSError as error:
        module.fail_json(msg=f"host_probe: the host could not be looked at: {error}")
    readings = {"wall": wall, "synchronized": synchronized(), "elapsed": time.monotonic() - started}
    module.exit_json(changed=False, time=readings, **result)


if __name__ == "__main__":
    main()
