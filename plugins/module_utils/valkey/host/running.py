# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A running server of this host: its settings, and which of its files it has loaded, which no command of it tells."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import read_text, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.config import (
    refused_for_ever,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.local import LocalServer
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import parse_spaces

# File systems stamp times from a clock that ticks up to 10 ms late (CONFIG_HZ=100).
CLOCK_GRAIN = 0.05


@dataclass
class Memory:
    """What a running server has loaded, as far as it is known; valid for one process of the server.

    removed: settings that left the file since the process started. files: digests of the files it loaded, by path.
    acl: digest of its ACL after the last load.
    """

    run_id: str
    removed: list[str] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    acl: str = ""


def read_memory(path: str, run_id: str) -> Memory:
    """Return what is remembered of this process of a server; nothing if it is another process now."""
    try:
        with open(path, encoding="utf-8") as stream:
            memory = Memory(**json.load(stream))
    except FileNotFoundError:
        return Memory(run_id)
    return memory if memory.run_id == run_id else Memory(run_id)


def write_memory(path: str, memory: Memory) -> None:
    """Remember; a killed run leaves the old memory or the new one."""
    text = json.dumps(vars(memory), sort_keys=True)
    if read_text(path) != text:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        replace_file(path, text, mode=0o600)


def digest(text: str | bytes) -> str:
    """Return the SHA-256 of a text, hexadecimal."""
    return hashlib.sha256(text if isinstance(text, bytes) else text.encode()).hexdigest()


def process_start(pid: int) -> float:
    """Return when a process started, seconds since the epoch (proc(5): stat field 22, in clock ticks since boot)."""
    ticks = int(read_text(f"/proc/{pid}/stat").rpartition(")")[2].split()[19])
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def program_replaced(pid: int) -> bool:
    """Return whether the program that a process runs is no longer on disk (proc(5): exe), as after an upgrade."""
    return os.readlink(f"/proc/{pid}/exe").endswith(" (deleted)")


class Server:
    """A running server of this host and what it has loaded."""

    def __init__(self, port: int, socket: str, run_dir: str, username: str, passwords: Sequence[str]) -> None:
        """Connect and log in.

        Parameters: socket, path of its Unix socket; run_dir, folder of what is remembered; passwords, of which the server
        takes one. Raises ConnectionRefusedError where nobody listens, Refusal.
        """
        self.where = f"valkey {port}"
        self._link = LocalServer(socket)
        try:
            self._link.login(username, passwords)
        except Refusal as error:
            remedy = "Name the password that the server still has in valkey_previous_passwords"
            raise Refusal(f"{self.where}: user {username} cannot log in ({error})", remedy) from error
        self._memory_path = os.path.join(run_dir, f"{port}.json")
        info = self._link.info("server")
        self.version = info["valkey_version"]
        self.memory = read_memory(self._memory_path, info["run_id"])
        pid = self._link.pid()
        self._started = process_start(pid)
        self.outdated = program_replaced(pid)

    def settings(self, names: dict[str, str]) -> dict[str, str]:
        """Return all settings; hidden ones, which have to be asked for by name, if they are among names."""
        live = self._link.mapping("CONFIG", "GET", "*")
        for name in names:
            if name not in live:
                live.update(self._link.mapping("CONFIG", "GET", name))
        return live

    def filled(self) -> tuple[int, ...]:
        """Return the databases that hold keys."""
        return tuple(sorted(parse_spaces(self._link.info("keyspace"))))

    def has_loaded(self, path: str, content: str | bytes) -> bool:
        """Return whether the process has loaded a file with this content.

        A file that nothing is remembered of counts as loaded if it has this content since before the process started.
        """
        known = self.memory.files.get(path)
        if known is not None:
            return known == digest(content)
        try:
            with open(path, "rb") as stream:
                on_disk = stream.read()
                changed_at = os.fstat(stream.fileno()).st_mtime
        except FileNotFoundError:
            return False
        return digest(on_disk) == digest(content) and changed_at < self._started - CLOCK_GRAIN

    def acl_digest(self) -> str:
        """Return the digest of the users that the server knows."""
        return digest("\n".join(self._link.call("ACL", "LIST")))

    def load_acl(self) -> bool:
        """Make the server load its ACL file; return whether that changed its users. Raises Refusal."""
        before = self.acl_digest()
        self._link.call("ACL", "LOAD")
        return self.acl_digest() != before

    def set_live(self, settings: dict[str, str]) -> list[str]:
        """Set settings in one step; return names that the server can only change at its start. Raises Refusal."""
        refused: list[str] = []
        while wanted := {name: value for name, value in settings.items() if name not in refused}:
            try:
                self._link.call("CONFIG", "SET", *(word for pair in wanted.items() for word in pair))
                break
            except Refusal as error:
                name = refused_for_ever(str(error))
                if name not in wanted:
                    raise Refusal(
                        f"{self.where}: {error}", "Correct the value; the server keeps its settings"
                    ) from error
                refused.append(name)
        return refused

    def remember(self) -> None:
        """Keep what is known of this process."""
        write_memory(self._memory_path, self.memory)

    def close(self) -> None:
        """Close the connection."""
        self._link.close()
