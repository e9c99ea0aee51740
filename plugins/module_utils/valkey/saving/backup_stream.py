# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The copy of a shard that a server sends to a new replica: an RDB file, and every write after it.

Protocol: https://valkey.io/topics/replication/ . A client that does not announce the capability `eof` makes the server fork
at once, without its `repl-diskless-sync-delay`, and send the file from its own disk when it is complete: the fork lasts as
long as the server's disk takes, not as long as the network does, and no setting of the server is touched.
The answer FULLRESYNC comes when the fork is made, with the offset that the file has.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass

from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.connection import (
    Endpoint,
    Options,
    RefusedError,
    UnreachableError,
    ValkeyError,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.saving.backup import (
    END_BYTES,
    is_rdb_end,
    rdb_version,
)

CHUNK = 1 << 18
LINE_LIMIT = 1 << 12
ACK_SECONDS = 1.0


@dataclass(frozen=True)
class Received:
    """A file that came home. rdb: version of the format of an RDB file."""

    path: str
    bytes: int
    sha256: str
    rdb: int


class _Link:
    """One connection to a server, and what is sent and read on it. Raises UnreachableError, RefusedError."""

    def __init__(self, endpoint: Endpoint, options: Options) -> None:
        self.endpoint = endpoint
        self.timeout = options.timeout
        self._pending = b""
        self._socket = _connected(endpoint, options)
        if options.password is not None:
            login = ["AUTH", options.username, options.password] if options.username else ["AUTH", options.password]
            self.call(*login)

    def wait(self, seconds: float) -> None:
        """Let reads wait for so many seconds."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """Close the connection; the server gives up what it still had to send."""
        with contextlib.suppress(OSError):
            # Wakes a thread that waits for it.
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def take(self, most: int) -> bytes:
        """Return the next bytes, as many as there are up to the most. Raises TimeoutError, UnreachableError."""
        if self._pending:
            part, self._pending = self._pending[:most], self._pending[most:]
            return part
        try:
            part = self._socket.recv(most)
        except TimeoutError:
            raise
        except OSError as error:
            raise self.lost(error) from error
        if not part:
            raise self.lost("the server closed the connection")
        return part

    def line(self) -> str:
        """Return the next line. Raises OSError."""
        while b"\n" not in self._pending:
            part = self._socket.recv(LINE_LIMIT)
            if not part:
                raise ConnectionResetError("the server closed the connection")
            self._pending += part
        line, self._pending = self._pending.split(b"\n", 1)
        return line.rstrip(b"\r").decode("utf-8", "replace")

    def send(self, *words: str) -> None:
        """Send a command."""
        encoded = [word.encode() for word in words]
        frames = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        try:
            self._socket.sendall(b"*%d\r\n%s" % (len(frames), b"".join(frames)))
        except OSError as error:
            raise self.lost(error) from error

    def call(self, *words: str) -> None:
        """Send a command that the server answers with a status."""
        self.send(*words)
        try:
            line = self.line()
        except OSError as error:
            raise self.lost(error) from error
        if not line.startswith("+"):
            raise RefusedError(
                self.endpoint, f"{words[0]}: {line.lstrip('-')}", "Check the user, its password and its ACL"
            )

    def lost(self, why: object) -> UnreachableError:
        """Return the error of a connection that broke."""
        return UnreachableError(
            self.endpoint, f"the copy broke off: {why}", "Run again; if it stays, see the server's log"
        )


class ReplicaStream:
    """One connection that behaves as a new replica would.

    Parameters: version, of the server, which it shall take for ours; follow, whether writes shall come after the file.
    Raises UnreachableError, RefusedError.
    """

    def __init__(self, endpoint: Endpoint, options: Options, version: str, *, follow: bool) -> None:
        self.endpoint = endpoint
        self.offset = 0
        self._link = _Link(endpoint, options)
        # Unknown words are ignored by servers that don't have them.
        self._link.call("REPLCONF", "version", version)
        if not follow:
            self._link.call("REPLCONF", "rdb-only", "1")

    def close(self) -> None:
        """Close the connection; the server gives up what it still had to send."""
        self._link.close()

    def ask(self) -> None:
        """Ask for a copy without waiting for the answer."""
        self._link.send("PSYNC", "?", "-1")

    def forked(self, seconds: float) -> bool:
        """Wait until the copy begins, for seconds at most. Returns whether it did; offset is known then."""
        deadline = time.monotonic() + seconds
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._link.wait(left)
            try:
                line = self._link.line()
            except TimeoutError:
                return False
            except OSError as error:
                raise self._link.lost(error) from error
            finally:
                self._link.wait(self._link.timeout)
            if not line:
                continue
            words = line.split()
            if words[0] != "+FULLRESYNC":
                raise RefusedError(self.endpoint, f"PSYNC: {line.lstrip('-')}", "The user needs +psync and +replconf")
            self.offset = int(words[2])
            return True

    def size(self) -> int:
        """Wait until the server has written the file, and return its size. Raises UnreachableError."""
        try:
            while not (line := self._link.line()):
                # While it writes, the server sends an empty line each second.
                continue
        except OSError as error:
            raise self._link.lost(error) from error
        if not line.startswith("$") or not line[1:].isdigit():
            raise UnreachableError(self.endpoint, f"the copy was not made: {line}", "See the server's log")
        return int(line[1:])

    def receive(self, path: str, size: int, pace: Callable[[int], None]) -> Received:
        """Write the file of that size to path. pace is called with the bytes that came.

        Raises UnreachableError, OSError where it can't be written, ValkeyError where it is not an RDB file.
        """
        digest = hashlib.sha256()
        left, head, tail = size, b"", b""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            while left:
                part = self._link.take(min(left, CHUNK))
                pace(len(part))
                digest.update(part)
                _write(file.fileno(), part)
                head = head or part[:END_BYTES]
                tail = (tail + part)[-END_BYTES:]
                left -= len(part)
        try:
            version = rdb_version(head)
        except ValueError as error:
            raise ValkeyError(self.endpoint, f"the server sent what is not an RDB file: {error}") from error
        if not is_rdb_end(tail):
            raise ValkeyError(
                self.endpoint, "the server sent what is an RDB file without an end", "See the server's log"
            )
        return Received(path, size, digest.hexdigest(), version)

    def follow(self, path: str, until: Callable[[], int | None]) -> Received:
        """Write what comes after the file to path, up to an offset: until returns it, None while it is not known yet.

        It has to know it before the server sends anything beyond. Raises UnreachableError, OSError.
        """
        digest = hashlib.sha256()
        reached = self.offset
        told = 0.0
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._link.wait(ACK_SECONDS / 4)
        try:
            with os.fdopen(descriptor, "wb", buffering=0) as file:
                while (end := until()) is None or reached < end:
                    if time.monotonic() - told >= ACK_SECONDS:
                        # The server gives up a replica that is silent. 0: what we have must not count for a client's WAIT.
                        self._link.send("REPLCONF", "ACK", "0")
                        told = time.monotonic()
                    try:
                        part = self._link.take(CHUNK)
                    except TimeoutError:
                        continue
                    if (end := until()) is not None:
                        part = part[: end - reached]
                    digest.update(part)
                    _write(file.fileno(), part)
                    reached += len(part)
        finally:
            self._link.wait(self._link.timeout)
        return Received(path, reached - self.offset, digest.hexdigest(), 0)


def _connected(endpoint: Endpoint, options: Options) -> socket.socket:
    try:
        plain = socket.create_connection((endpoint.address, endpoint.port), options.timeout)
        if not options.tls:
            return plain
        context = ssl.create_default_context(cafile=options.ca_cert)
        if options.client_cert:
            context.load_cert_chain(options.client_cert, options.client_key or options.client_cert)
        return context.wrap_socket(plain, server_hostname=endpoint.address)
    except ssl.SSLError as error:
        raise RefusedError(
            endpoint, f"TLS failed: {error}", "Check ca_cert, client_cert and the server's certificate"
        ) from error
    except OSError as error:
        raise UnreachableError(
            endpoint, f"unreachable: {error}", "Check that the server runs and that its port is open"
        ) from error


def _write(descriptor: int, part: bytes) -> None:
    view = memoryview(part)
    while view:
        view = view[os.write(descriptor, view) :]
