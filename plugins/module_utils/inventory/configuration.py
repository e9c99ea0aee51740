# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Configuration files of services as data, without their secrets. No I/O.

Sources: PgBouncer's manual (pgbouncer.ini), HAProxy's configuration manual (sections, bind, httpchk), keepalived.conf(5),
valkey.conf and "ACL" of Valkey 8.0 to 9.1.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import secrets

_SECTIONS = ("global", "defaults", "frontend", "backend", "listen")


def pgbouncer(text: str) -> dict[str, Any]:
    """Return {settings, databases, hidden} of pgbouncer.ini; each database is a dict of the words of its line."""
    found: dict[str, Any] = {"settings": {}, "databases": {}, "hidden": []}
    section = ""
    for line in (line.strip() for line in text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1].strip().lower()
        elif line and line[0] not in ";#%" and "=" in line:
            name, value = (part.strip() for part in line.split("=", 1))
            _pgbouncer_line(found, section, name.strip('"'), value)
    return found


def _pgbouncer_line(found: dict[str, Any], section: str, name: str, value: str) -> None:
    if section == "databases":
        words = dict(re.findall(r"(\w+)\s*=\s*('(?:[^']|'')*'|\S+)", value))
        words = {key: word[1:-1].replace("''", "'") if word.startswith("'") else word for key, word in words.items()}
        if "password" in words:
            found["hidden"].append(f"[databases] {name} password")
        found["databases"][name] = {key: word for key, word in words.items() if not secrets.is_secret(key)}
    elif section == "pgbouncer" and (secrets.is_secret(name) or secrets.has_secret(value)):
        found["hidden"].append(name)
    elif section == "pgbouncer":
        found["settings"][name] = value


def haproxy(text: str) -> dict[str, Any]:
    """Return {maxconn, sections}; a section has kind, name, binds (address, port), check (path), backend and its servers' addresses."""
    found: dict[str, Any] = {"maxconn": None, "sections": []}
    kind = ""
    for line in text.splitlines():
        words = _words(line)
        if not words:
            continue
        if words[0] in _SECTIONS or not line[0].isspace():
            kind = words[0]
            if kind in ("frontend", "backend", "listen"):
                section = {
                    "kind": kind,
                    "name": words[1] if len(words) > 1 else "",
                    "binds": [],
                    "check": "",
                    "backend": "",
                    "servers": [],
                }
                found["sections"].append(section)
        elif kind == "global" and words[0] == "maxconn" and len(words) > 1 and words[1].isdigit():
            found["maxconn"] = int(words[1])
        elif kind in ("frontend", "backend", "listen"):
            _haproxy_line(found["sections"][-1], words)
    return found


def _haproxy_line(section: dict[str, Any], words: list[str]) -> None:
    if words[0] == "bind" and len(words) > 1:
        for bind in words[1].split(","):
            address, _colon, port = bind.rpartition(":")
            if port.isdigit():
                section["binds"].append({"address": address or "*", "port": int(port)})
    elif words[:2] == ["option", "httpchk"] and len(words) > 2:
        section["check"] = next((word for word in words[2:] if word.startswith("/")), "")
    elif words[:2] == ["http-check", "send"] and "uri" in words[:-1]:
        section["check"] = words[words.index("uri") + 1]
    elif words[0] == "default_backend" and len(words) > 1:
        section["backend"] = words[1]
    elif words[0] == "server" and len(words) > 2:
        section["servers"].append(words[2])


def keepalived(text: str) -> dict[str, Any]:
    """Return {address, prefix, interface, router_id} of the first virtual address, empty where there is none."""
    lines = "\n".join(line.split("#")[0].split("!")[0] for line in text.splitlines())
    block = re.search(r"virtual_ipaddress\s*\{([^}]*)\}", lines)
    words = block[1].split() if block else []
    if not words:
        return {}
    address, _slash, prefix = words[0].partition("/")
    interface = words[words.index("dev") + 1] if "dev" in words[:-1] else _first(r"^\s*interface\s+(\S+)", lines)
    router = _first(r"^\s*virtual_router_id\s+(\d+)", lines)
    return {
        "address": address,
        "prefix": int(prefix) if prefix.isdigit() else 32,
        "interface": interface,
        "router_id": int(router) if router else None,
    }


def _first(pattern: str, text: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    return match[1] if match else ""


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError:
        return line.split()


def acl_users(lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return {name, enabled, nopass, passwords, rules} for each line `user NAME RULES`, as of ACL LIST or a file of users.

    passwords is how many there are; neither they nor their hashes are kept.
    """
    found = []
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0] != "user":
            continue
        rules = [word for word in words[2:] if not _is_state(word)]
        found.append(
            {
                "name": words[1],
                "enabled": "on" in words[2:] and "off" not in words[2:],
                "nopass": "nopass" in words[2:],
                "passwords": sum(word[0] in "#>" for word in words[2:]),
                "rules": " ".join(rules),
            }
        )
    return found


def _is_state(word: str) -> bool:
    return word[0] in "#><!" or word in (
        "on",
        "off",
        "nopass",
        "resetpass",
        "sanitize-payload",
        "skip-sanitize-payload",
    )


def rules_key(rules: str) -> tuple[str, ...]:
    """Return what rules of ACL users mean, as far as the order in which the server lists them plays no part.

    The server lists patterns first and commands then, with -@all in front, and resetchannels where a user has fewer than all channels.
    """
    words = rules.split()
    patterns = sorted(word for word in words if word[0] in "~%&" or word in ("allkeys", "allchannels"))
    commands = [word for word in words if word[0] in "+-" or word in ("allcommands", "nocommands")]
    names = {"allkeys": "~*", "allchannels": "&*", "allcommands": "+@all", "nocommands": "-@all"}
    ordered = [names.get(word, word) for word in (*patterns, *commands)]
    while "-@all" in ordered and (ordered.index("-@all") == len(patterns)):
        ordered.remove("-@all")
    return tuple(ordered)
