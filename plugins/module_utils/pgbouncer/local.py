# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""How a process of root speaks to PgBouncer as the user that PgBouncer runs as."""

from __future__ import annotations

import contextlib
import os
import pwd
from collections.abc import Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.console import Console
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Be that user where this process is root's. Raises Refusal for an unknown user.

    A socket's peer is whoever the process acts as while it connects (man 7 unix, SO_PEERCRED).
    """
    if os.geteuid() != 0:
        yield
        return
    try:
        number = pwd.getpwnam(user).pw_uid
    except KeyError as error:
        raise Refusal(f"this host has no user {user}") from error
    os.seteuid(number)
    try:
        yield
    finally:
        os.seteuid(0)


def connect(path: str, user: str, timeout: float) -> Console:
    """Return a connection to the console at that socket, made as that system user. Raises Refusal."""
    with acting_as(user):
        return Console(path, timeout=timeout)


def predecessors(path: str) -> list[int]:
    """Return the numbers of older processes that still serve the clients they had when an update started a new one.

    path, the console's socket: a link into a folder named by the newest process' number, beside those of the older ones.
    """
    if not os.path.islink(path):
        return []
    newest, _slash, _name = os.path.realpath(path).rpartition("/")
    folder, _slash, own = newest.rpartition("/")
    return sorted(
        int(name) for name in os.listdir(folder) if name.isdigit() and name != own and os.path.exists(f"/proc/{name}")
    )


def is_paused(console: Console) -> bool | None:
    """Return whether PgBouncer as a whole is paused or about to be; None where it can't tell. Raises Refusal.

    PgBouncer 1.18 (Debian 12) has no SHOW STATE, and nothing else of its console tells.
    """
    try:
        state = console.rows("SHOW STATE")
    except Refusal as error:
        if "invalid command 'SHOW STATE'" in str(error):
            return None
        raise
    return any(row["key"] == "paused" and row["value"] == "yes" for row in state)


def resume_all(console: Console) -> bool:
    """Let PgBouncer as a whole continue; return whether it was paused. Raises Refusal."""
    if is_paused(console) is False:
        return False
    try:
        console.rows("RESUME")
    except Refusal as error:
        if "not paused" in str(error):
            return False
        raise
    return True
