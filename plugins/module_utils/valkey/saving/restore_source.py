# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A server of this host that holds one shard of a backup, for a restore or a drill. Nobody reaches it but root here."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator

from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey import connection
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Client,
    Endpoint,
    Options,
    UnreachableError,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving import backup
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.restore import Shard
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.topology import (
    Space,
    parse_info,
    parse_spaces,
)

RUN_DIR = "/run/holdfast"
SERVER = "valkey-server"
START_SECONDS = 20.0
POLL = 0.05
# Ends by itself when nobody comes back for it.
KEEP_SECONDS = 6 * 3600
# One MIGRATE waits for the slowest value.
REPLY_SECONDS = 600.0
DATABASES = 1024


class SourceClient(Client):
    """A client that comes through the server's Unix socket."""

    def __init__(self, path: str) -> None:
        """Connect. Raises UnreachableError."""
        self.endpoint = Endpoint(path, 0)
        self._connection = connection.library.connection.UnixDomainSocketConnection(
            path=path, socket_timeout=REPLY_SECONDS
        )
        try:
            self._connection.connect()
        except (OSError, connection.library.exceptions.ConnectionError) as error:
            raise UnreachableError(self.endpoint, str(error)) from error


def version(program: str = SERVER) -> tuple[int, ...]:
    """Return the version of this host's server program. Raises Refusal."""
    try:
        told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refusal(
            f"{program} can't be run on this host: {error}", "Install valkey-server; site.yml does"
        ) from error
    match = re.search(r"v=(\d+)\.(\d+)\.(\d+)", told)
    if not match:
        raise Refusal(f"{program} --version says {told.strip()!r}", "Install valkey-server")
    return tuple(int(part) for part in match.groups())


def _mark(folder: str) -> str:
    """Return what folders of servers have in their names for a backup. Sockets have short paths."""
    return hashlib.sha256(folder.encode()).hexdigest()[:10]


def left(folder: str) -> list[str]:
    """Return the folders of servers that hold a backup's shards on this host now. folder: of the backup."""
    return sorted(glob.glob(os.path.join(RUN_DIR, f"valkey-{_mark(folder)}-*")))


class Source:
    """The server of one shard. It survives this process, so that the next run continues with what is loaded.

    Parameters: folder of the backup; options, certificates by which the server reaches the cluster.
    """

    def __init__(self, folder: str, shard: Shard, kind: str, options: Options, program: str = SERVER) -> None:
        self.shard = shard
        self._program = program
        self._folder = folder
        self._kind = kind
        self._options = options
        self._home = os.path.join(RUN_DIR, f"valkey-{_mark(folder)}-{shard.name.removeprefix('shard-')}")
        self._socket = os.path.join(self._home, "s")

    def client(self) -> SourceClient:
        """Return a connection, the server loads or serves. Starts it where it does not run. Raises Refusal."""
        with contextlib.suppress(ValkeyError):
            return SourceClient(self._socket)
        self._prepare()
        process = self._start()
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(ValkeyError):
                return SourceClient(self._socket)
            if process.poll() is not None or time.monotonic() > deadline:
                # Its timeout hands the signal on.
                process.terminate()
                process.wait()
                raise Refusal(f"the server for {self.shard.file} did not start: {self.log()}", "See the message")
            time.sleep(POLL)

    @contextlib.contextmanager
    def useless(self) -> Iterator[None]:
        """End the server where the block is refused: no run continues with what it has."""
        try:
            yield
        except Refusal:
            self.stop()
            raise

    def log(self) -> str:
        """Return the end of the server's log."""
        try:
            with open(os.path.join(self._home, "log"), encoding="utf-8", errors="replace") as file:
                return " ".join(file.read().splitlines()[-6:])
        except FileNotFoundError:
            return "it left no log"

    def wait(self, client: Client, seconds: float | None) -> bool:
        """Wait until the file is loaded, for seconds at most. Returns whether it is. Raises Refusal."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            try:
                info = parse_info(client.call("INFO", "persistence"))
            except ValkeyError as error:
                raise Refusal(
                    f"{self.shard.file} could not be loaded: {self.log()}", "Restore another backup"
                ) from error
            if info["loading"] == "0":
                return True
            if deadline is not None and time.monotonic() > deadline:
                return False
            time.sleep(POLL)

    def loaded(self, client: Client) -> tuple[int, int, dict[int, Space]]:
        """Return how many keys were loaded and left out as expired, and the databases that hold them."""
        text = client.call("INFO", "all")
        info = parse_info(text)
        found = parse_spaces(info)
        if self._kind == backup.RDB:
            return int(info["rdb_last_load_keys_loaded"]), int(info["rdb_last_load_keys_expired"]), found
        return sum(space.keys for space in found.values()), 0, found

    def stop(self) -> None:
        """End the server, delete what it had besides the backup."""
        with contextlib.suppress(ValkeyError), contextlib.closing(SourceClient(self._socket)) as client:
            client.send([("SHUTDOWN", "NOSAVE", "NOW", "FORCE")])
            client.receive_raw()
        shutil.rmtree(self._home, ignore_errors=True)

    def _prepare(self) -> None:
        """Lay the file where the server looks for it. What it may write to is a copy."""
        shutil.rmtree(self._home, ignore_errors=True)
        make_folders(RUN_DIR)
        os.mkdir(self._home, 0o700)
        file = os.path.join(self._folder, self.shard.file)
        if self._kind == backup.RDB:
            os.symlink(file, os.path.join(self._home, "dump.rdb"))
            return
        target = os.path.join(self._home, backup.AOF_FOLDER)
        os.mkdir(target, 0o700)
        os.symlink(file, os.path.join(target, backup.AOF_BASE))
        for name in (backup.AOF_INCREMENT, backup.AOF_MANIFEST):
            shutil.copyfile(os.path.join(os.path.dirname(file), name), os.path.join(target, name))

    def _start(self) -> subprocess.Popen[bytes]:
        settings: dict[str, str] = {
            "port": "0",
            "unixsocket": self._socket,
            "unixsocketperm": "700",
            "dir": self._home,
            "dbfilename": "dump.rdb",
            "save": "",
            "appendonly": "no" if self._kind == backup.RDB else "yes",
            "appendfilename": "appendonly.aof",
            "appenddirname": backup.AOF_FOLDER,
            "auto-aof-rewrite-percentage": "0",
            "databases": str(max(DATABASES, *(number + 1 for number in self.shard.databases or (0,)))),
            "maxmemory": "0",
            **_tls(self._options),
        }
        path = os.path.join(self._home, "valkey.conf")
        with open(path, "w", encoding="utf-8") as file:
            file.write("".join(f'{name} "{value}"\n' for name, value in settings.items()))
        with open(os.path.join(self._home, "log"), "ab") as log:
            return subprocess.Popen(
                ["timeout", "--kill-after=10", str(KEEP_SECONDS), self._program, path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )


def _tls(options: Options) -> dict[str, str]:
    if not options.tls:
        return {}
    certificate = options.client_cert or ""
    return {
        "tls-cluster": "yes",
        "tls-ca-cert-file": options.ca_cert or "",
        "tls-cert-file": certificate,
        "tls-key-file": options.client_key or certificate,
    }
