# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Configuration of Valkey servers: text, live settings and what lies between them. No I/O.

A setting is one directive of a configuration file, by name. Its value has the form that C(CONFIG SET) takes: the
arguments of the directive joined by one space, several lines of one directive joined too.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# Directives that may stand on several lines, each adding to the ones before (valkey.conf of 8.0 to 9.1).
REPEATABLE = frozenset({"client-output-buffer-limit", "save"})

# CONFIG SET of these answers "can't set immutable config" or "can't set protected config": asked of 8.0.1, 8.1.1 and
# 9.1.2, each setting with the value it had. A server that refuses one more is believed, see refused_for_ever().
NEVER_LIVE = frozenset(
    {
        "aclfile",
        "always-show-logo",
        "aof-rewrite-cpulist",
        "aof_rewrite_cpulist",
        "appenddirname",
        "appendfilename",
        "bgsave-cpulist",
        "bgsave_cpulist",
        "bio-cpulist",
        "bio_cpulist",
        "cluster-config-file",
        "cluster-databases",
        "cluster-enabled",
        "cluster-port",
        "daemonize",
        "databases",
        "dbfilename",
        "dir",
        "disable-thp",
        "enable-debug-command",
        "enable-module-command",
        "enable-protected-configs",
        "hash-seed",
        "io-threads-do-reads",
        "logfile",
        "mptcp",
        "pidfile",
        "rdbchecksum",
        "rdma-completion-vector",
        "rdma-rx-size",
        "repl-mptcp",
        "replicaof",
        "server-cpulist",
        "server_cpulist",
        "set-proc-title",
        "slaveof",
        "socket-mark-id",
        "supervised",
        "syslog-enabled",
        "syslog-facility",
        "syslog-ident",
        "tcp-backlog",
        "unixsocket",
        "unixsocketgroup",
        "unixsocketperm",
    }
)

# The same, in servers older than the version: 8.0.1 and 8.1.1 refuse, 9.1.2 changes it live.
NEVER_LIVE_BEFORE = {"io-threads": (9, 1)}

# The cluster bus listens on the client port plus this number (cluster-port left at 0).
BUS_PORT_OFFSET = 10000
HIGHEST_PORT = 65535 - BUS_PORT_OFFSET

_UNITS = {"": 1, "b": 1, "k": 1000, "kb": 1 << 10, "m": 10**6, "mb": 1 << 20, "g": 10**9, "gb": 1 << 30}
_SIZE = re.compile(r"(\d+)([kmg]?b?)", re.IGNORECASE)
_HASH = re.compile(r"#[0-9a-f]{64}")
_ALL_EVENTS = "g$lshzxetd"
_SINCE = re.compile(r"\{since (\d+)\.(\d+):([^{}\n]*)\}")
_GRAIN = 16 << 20


@dataclass(frozen=True)
class Plan:
    """What brings a running server to its configuration.

    live: settings for CONFIG SET. restart: names that only a restart brings about, sorted.
    removed: names that the configuration no longer has while the server may still run with them, sorted.
    """

    live: Mapping[str, str]
    restart: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()


def parse_size(text: str) -> int | None:
    """Return the bytes that a size of valkey.conf means (1k = 1000, 1kb = 1024), None if it is not a size."""
    match = _SIZE.fullmatch(text.strip())
    return int(match[1]) * _UNITS[match[2].lower()] if match else None


def parse_config(text: str, where: str = "configuration") -> dict[str, str]:
    """Return the settings of a configuration file by name.

    Later lines win, as in the server. Raises Refusal for a line that cannot be split into words.
    """
    settings: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = _split(line, f"{where}, line {number}")
        if not words:
            continue
        name, value = words[0].lower(), " ".join(words[1:])
        if name in REPEATABLE and settings.get(name) and value:
            value = f"{settings[name]} {value}"
        settings[name] = value
    return settings


def _split(line: str, where: str) -> list[str]:
    if line.lstrip().startswith("#"):
        return []
    try:
        return shlex.split(line)
    except ValueError as error:
        raise Refusal(f"{where}: cannot read {line.strip()!r} ({error})", "Close the quotes") from error


def render_setting(name: str, value: object) -> str:
    """Return the lines of a configuration file that set one setting, whatever stands above them.

    Booleans become yes and no, lists are joined by spaces, None is the empty value.
    """
    text = _value_text(value)
    if name == "save":
        # The server adds lines of save to those above; the empty one takes them back.
        return f'save ""\nsave {text}' if text else 'save ""'
    words = _words(text)
    if words and " ".join(words) == text:
        return f"{name} {text}"
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'{name} "{escaped}"'


def _value_text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " ".join(map(_value_text, value))
    return "" if value is None else str(value)


def _words(text: str) -> list[str]:
    """Return the plain words of a value, none if it has a character that needs quotes."""
    return [] if re.search(r"[\"'\\#]|\s\s", text) else text.split()


def instance_text(template: str, port: int, settings: Mapping[str, object]) -> str:
    """Return the configuration of one instance.

    template: text that all instances share. settings: added at the end, where they win.
    In both {port} and {bus_port} stand for the instance's numbers.
    """
    own = "".join(f"{render_setting(name, value)}\n" for name, value in settings.items())
    text = template.rstrip("\n") + "\n" + (f"\n# Settings of this host and instance\n{own}" if own else "")
    return text.replace("{port}", str(port)).replace("{bus_port}", str(port + BUS_PORT_OFFSET))


def version_numbers(version: str) -> tuple[int, ...]:
    """Return major and minor number of a version, nothing of a text that has none."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


def for_version(text: str, version: str) -> str:
    """Return a text as a server of that version takes it: {since 9.0:words} stands for the words from 9.0 on, else for nothing."""
    numbers = version_numbers(version)
    return _SINCE.sub(lambda match: match[3] if numbers >= (int(match[1]), int(match[2])) else "", text)


def check_apart(wished: Mapping[int, Mapping[str, str]]) -> None:
    """Raise Refusal where two instances, given by port, would write into one another's files."""
    for name in ("dir", "unixsocket"):
        values = [settings[name] for settings in wished.values()]
        shared = sorted({value for value in values if values.count(value) > 1})
        if shared:
            raise Refusal(f"config: several instances have {name} {shared[0]}", "Put {port} into its path")


def check_ports(ports: Sequence[int]) -> None:
    """Raise Refusal unless every port may be used, its cluster bus port too, and none clash."""
    for port in ports:
        if not 1024 <= port <= HIGHEST_PORT:
            raise Refusal(f"valkey_instances: port {port}", f"Choose one from 1024 to {HIGHEST_PORT}")
    taken = [*ports, *(port + BUS_PORT_OFFSET for port in ports)]
    twice = sorted({port for port in taken if taken.count(port) > 1})
    if twice:
        remedy = f"Give each instance its own port; the cluster bus takes port + {BUS_PORT_OFFSET}"
        raise Refusal(f"valkey_instances: port {twice[0]} is used twice", remedy)


def share_memory(total: int, fraction: float, fixed: Mapping[int, int | None]) -> dict[int, int]:
    """Return maxmemory in bytes by port.

    total: the host's memory in bytes. fraction: the part of it that all instances together may fill.
    fixed: by port the instance's own maxmemory in bytes, None where it takes an equal part of what the others leave.
    Raises Refusal where the instances do not fit into the host, or an equal part would be under 16 MiB.
    """
    demanded = sum(size for size in fixed.values() if size)
    budget = int(total * fraction)
    if demanded > total:
        found = f"maxmemory of all instances is {demanded} bytes, the host has {total}"
        raise Refusal(f"valkey_instances: {found}", "Lower maxmemory, or move an instance to another host")
    open_ports = [port for port, size in fixed.items() if size is None]
    part = (budget - demanded) // len(open_ports) // _GRAIN * _GRAIN if open_ports else 0
    if open_ports and part < _GRAIN:
        found = f"{max(budget - demanded, 0)} bytes are left for the {len(open_ports)} instances without maxmemory"
        raise Refusal(f"valkey_memory_fraction: {found}", "Raise it, or lower maxmemory of the other instances")
    return {port: part if size is None else size for port, size in fixed.items()}


def same(name: str, wished: str, live: str) -> bool:
    """Return whether two values of a setting mean the same to the server."""
    if name == "client-output-buffer-limit":
        return _limits(wished).items() <= _limits(live).items()
    if name == "notify-keyspace-events":
        return _events(wished) == _events(live)
    left, right = wished.split(), live.split()
    return len(left) == len(right) and all(_same_word(*pair) for pair in zip(left, right, strict=True))


def _same_word(wished: str, live: str) -> bool:
    if wished == live:
        return True
    sizes = parse_size(wished), parse_size(live)
    if None not in sizes:
        return sizes[0] == sizes[1]
    return "/" not in wished and wished.lower() == live.lower()


def _limits(text: str) -> dict[str, tuple[int | str, ...]]:
    """Return the limits of client-output-buffer-limit by class of clients; the server still says slave."""
    words = [word.lower() for word in text.split()]
    rows = [words[start : start + 4] for start in range(0, len(words), 4)]
    return {row[0].replace("replica", "slave"): tuple(map(_number, row[1:])) for row in rows}


def _number(word: str) -> int | str:
    size = parse_size(word)
    return word if size is None else size


def _events(text: str) -> frozenset[str]:
    return frozenset(text.replace("A", _ALL_EVENTS))


def unknown_settings(wished: Mapping[str, str], live: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that the server does not have, each with the nearest name it has (or "")."""
    missing = [name for name in wished if name not in live]
    return {name: next(iter(difflib.get_close_matches(name, live, n=1)), "") for name in missing}


def make_plan(
    wished: Mapping[str, str],
    live: Mapping[str, str],
    on_disk: Mapping[str, str],
    removed_before: Sequence[str] = (),
    version: str = "",
) -> Plan:
    """Return what brings a running server to its configuration.

    wished: the new configuration. live: the answer to CONFIG GET. on_disk: the configuration file as it stands.
    removed_before: what earlier runs removed from the file since the server started. version: of the server.
    A setting that left the file keeps the value it had taken until a restart: no command gives a default back.
    """
    differing = {name: value for name, value in wished.items() if name in live and not same(name, value, live[name])}
    in_effect = {name for name, value in on_disk.items() if name in live and same(name, value, live[name])}
    removed = {name for name in {*in_effect, *removed_before} if name not in wished}
    never = {name for name in differing if name in NEVER_LIVE or _too_old(name, version)}
    return Plan(
        live={name: value for name, value in differing.items() if name not in never},
        restart=tuple(sorted(never | removed)),
        removed=tuple(sorted(removed)),
    )


def _too_old(name: str, version: str) -> bool:
    return name in NEVER_LIVE_BEFORE and version_numbers(version) < NEVER_LIVE_BEFORE[name]


def refused_for_ever(message: str) -> str | None:
    """Return the setting that a server refused to change without a restart, None for any other error of CONFIG SET."""
    match = re.search(r"argument '([^']+)'\) - can't set (?:immutable|protected) config", message)
    return match[1] if match else None


def masked_acl(text: str) -> str:
    """Return an ACL file without its password hashes, for people."""
    return _HASH.sub("#(hash)", text)


def acl_users(text: str) -> dict[str, str]:
    """Return the definitions of an ACL file by user name."""
    lines = [line.split(maxsplit=2) for line in text.splitlines() if line.startswith("user ")]
    return {words[1]: words[2] if len(words) == 3 else "" for words in lines}


def changed_users(before: str, after: str) -> list[str]:
    """Return the names of the users that two ACL files define differently, sorted."""
    old, new = acl_users(before), acl_users(after)
    return sorted(name for name in {*old, *new} if old.get(name) != new.get(name))
