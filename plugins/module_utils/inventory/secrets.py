# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Which parts of a configuration are secrets, so that none of them leaves its host. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAME = re.compile(
    r"pass(word|wd|wort|phrase|code)?(?![a-z])|passwd|(?:master|primary)auth$|^rename-command$|secret|token|salt|credential"
    r"|conninfo|(^|[._-])(api|private|access)?_?key($|[._-])",
    re.IGNORECASE,
)
# Names that look like secrets and say how secrets are kept, or where.
_HARMLESS = re.compile(
    r"^(password_encryption|ssl_key_file|keyfile|tls-key-file|tls-client-key-file|pgpass|scram_iterations|wal_segment_key)$"
)
_VALUE = re.compile(
    r"[a-z][a-z0-9+.-]*://[^/\s:@]*:[^@\s/]+@|(?:passw(?:or)?d|passphrase|secrets?|token|bindpasswd)\s*=|BEGIN [A-Z ]*PRIVATE KEY",
    re.IGNORECASE,
)


def is_secret(name: str) -> bool:
    """Return whether a setting of that name holds a secret."""
    return bool(_NAME.search(name)) and not _HARMLESS.match(name)


def has_secret(text: str) -> bool:
    """Return whether a text carries a secret: a URL with a password, or an assignment to one."""
    return bool(_VALUE.search(text))


def without(value: Any, place: str = "") -> tuple[Any, list[str]]:
    """Return a configuration without its secrets, and the places that are missing, as postgresql.authentication.replication.password."""
    hidden: list[str] = []
    return _clean(value, place, hidden), hidden


def _clean(value: Any, place: str, hidden: list[str]) -> Any:
    if isinstance(value, Mapping):
        found = {}
        for name, inner in value.items():
            where = f"{place}.{name}" if place else str(name)
            named = (
                is_secret(str(name)) and not isinstance(inner, (Mapping, bool)) and not _is_key_file(str(name), inner)
            )
            if named or (isinstance(inner, str) and has_secret(inner)):
                hidden.append(where)
            else:
                found[str(name)] = _clean(inner, where, hidden)
        return found
    if isinstance(value, (list, tuple)):
        return list(_items(value, place, hidden))
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _is_key_file(name: str, value: Any) -> bool:
    """Return whether this is the path of a certificate's key, as Patroni has it for etcd."""
    return name == "key" and isinstance(value, str) and value.startswith("/")


def _items(values: Any, place: str, hidden: list[str]) -> Iterator[Any]:
    for index, inner in enumerate(values):
        if isinstance(inner, str) and has_secret(inner):
            hidden.append(f"{place}[{index}]")
        else:
            yield _clean(inner, f"{place}[{index}]", hidden)
