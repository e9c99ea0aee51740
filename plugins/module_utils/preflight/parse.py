# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Reading of what Linux and the services' files say about a host. Text and bytes in, plain data out. No I/O."""

from __future__ import annotations

import ipaddress
import re
import shlex
import struct
from collections.abc import Iterator
from typing import Any

_MIB = 1024 * 1024

# linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h
_MESSAGE_HEADER = struct.Struct("=IHHII")
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_ATTRIBUTE_HEADER = struct.Struct("=HH")
_ADDRESS_MESSAGE = 20  # RTM_NEWADDR
_DONE_MESSAGE = 3  # NLMSG_DONE
_ADDRESS = 1  # IFA_ADDRESS; the peer's on point-to-point links
_LOCAL = 2  # IFA_LOCAL

# include/net/tcp_states.h
_LISTEN = "0A"


def os_release(text: str) -> dict[str, str]:
    """Return id, codename and name out of /etc/os-release (os-release(5))."""
    fields = environment(text)
    codename = fields.get("VERSION_CODENAME", "")
    if not codename:
        # Debian's testing release names itself in PRETTY_NAME only: "Debian GNU/Linux forky/sid".
        match = re.search(r"(\w+)/sid", fields.get("PRETTY_NAME", ""))
        codename = match[1] if match else ""
    return {"id": fields.get("ID", ""), "codename": codename, "name": fields.get("PRETTY_NAME", "")}


def environment(text: str) -> dict[str, str]:
    """Return the assignments of a file in the shell's syntax, such as /etc/default/etcd; the rest is passed over."""
    fields = {}
    for line in text.splitlines():
        name, separator, value = line.strip().partition("=")
        if not separator or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            continue
        try:
            fields[name] = "".join(shlex.split(value, comments=True)[:1])
        except ValueError:  # an unbalanced quote
            fields[name] = value
    return fields


def memory_mib(meminfo: str, cgroup_limit: str) -> int:
    """Return the memory a host may use, in MiB: /proc/meminfo's total, or the control group's limit if lower."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", meminfo, re.MULTILINE)
    total = int(match[1]) // 1024 if match else 0
    limit = cgroup_limit.strip()
    return min(total, int(limit) // _MIB) if limit.isdigit() and total else total


def listening(table: str) -> Iterator[tuple[int, str, int]]:
    """Yield (port, address, inode) for each listening socket of /proc/net/tcp or tcp6 (proc_net_tcp.txt)."""
    for line in table.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == _LISTEN:
            address, _colon, port = fields[1].partition(":")
            yield int(port, 16), _kernel_address(address), int(fields[9])


def _kernel_address(text: str) -> str:
    """The kernel prints each 32-bit word of an address in the machine's own byte order."""
    words = [int(text[start : start + 8], 16) for start in range(0, len(text), 8)]
    packed = struct.pack(f"={len(words)}I", *words)
    return str(ipaddress.ip_address(packed))


def interface_addresses(answer: bytes) -> tuple[list[tuple[int, str, int]], bool]:
    """Read one answer to RTM_GETADDR.

    Returns a list of (interface index, address, prefix length), and whether the answer was the last one.
    """
    found: list[tuple[int, str, int]] = []
    start = 0
    while start + _MESSAGE_HEADER.size <= len(answer):
        length, kind, _flags, _sequence, _pid = _MESSAGE_HEADER.unpack_from(answer, start)
        if kind == _DONE_MESSAGE or length < _MESSAGE_HEADER.size:
            return found, True
        if kind == _ADDRESS_MESSAGE:
            address = _address_of(answer[start + _MESSAGE_HEADER.size : start + length])
            if address is not None:
                found.append(address)
        start += _aligned(length)
    return found, False


def _address_of(body: bytes) -> tuple[int, str, int] | None:
    _family, prefix, _flags, _scope, index = _ADDRESS_HEADER.unpack_from(body)
    attributes = dict(_attributes(body[_ADDRESS_HEADER.size :]))
    packed = attributes.get(_LOCAL) or attributes.get(_ADDRESS)
    return (index, str(ipaddress.ip_address(packed)), prefix) if packed else None


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    start = 0
    while start + _ATTRIBUTE_HEADER.size <= len(data):
        length, kind = _ATTRIBUTE_HEADER.unpack_from(data, start)
        if length < _ATTRIBUTE_HEADER.size:
            return
        yield kind, data[start + _ATTRIBUTE_HEADER.size : start + length]
        start += _aligned(length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def patroni(text: str) -> dict[str, str]:
    """Return scope and data_dir out of Patroni's configuration, without a YAML parser: hosts may have none."""
    return {"scope": _yaml_scalar(text, "scope"), "data_dir": _yaml_scalar(text, "data_dir")}


def _yaml_scalar(text: str, key: str) -> str:
    match = re.search(rf"^\s*[\"']?{key}[\"']?:[ \t]*(\"[^\"]*\"|'[^']*'|[^#\n]*)", text, re.MULTILINE)
    return match[1].strip().strip("\"'") if match else ""


def valkey(text: str) -> dict[str, Any]:
    """Return dir and whether cluster mode is on, out of a Valkey configuration."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        key, _space, value = line.strip().partition(" ")
        if key.lower() in ("dir", "cluster-enabled"):
            found[key.lower()] = value.strip().strip("\"'")
    return {"dir": found.get("dir", ""), "cluster": found.get("cluster-enabled", "") == "yes"}


def system_identifier(control: bytes) -> str:
    """Return the system identifier out of global/pg_control, whose first field it is (catalog/pg_control.h)."""
    return str(struct.unpack_from("=Q", control)[0]) if len(control) >= 8 else ""


def locales(initdb: Any) -> list[str]:
    """Return the names of the C library's locales in options of initdb, each once; what is no list of options has none.

    initdb takes `locale` and one option a category, such as `lc-collate` (initdb(1)); `icu-locale` and the like are not the C library's.
    """
    found: list[str] = []
    for option in initdb if isinstance(initdb, list) else []:
        if isinstance(option, dict):
            found += [str(value) for key, value in option.items() if re.fullmatch(r"locale|lc[-_][a-z]+", str(key))]
    return list(dict.fromkeys(name for name in found if name))
