# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A client for PgBouncer's administration console on a Unix socket, which speaks PostgreSQL's protocol 3.0.

Balancers need no PostgreSQL client library otherwise, and the console of older versions only knows simple queries.
Sources: PostgreSQL's manual, "Frontend/Backend Protocol", "Message Formats"; PgBouncer's manual, "Admin console".
"""

from __future__ import annotations

import socket
import struct
from types import TracebackType

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PROTOCOL = 3 << 16


def startup_message(user: str, database: str) -> bytes:
    """Return the first message of a connection."""
    text = f"user\0{user}\0database\0{database}\0\0".encode()
    return struct.pack("!ii", len(text) + 8, PROTOCOL) + text


def query_message(statement: str) -> bytes:
    """Return the message of a simple query."""
    text = statement.encode() + b"\0"
    return b"Q" + struct.pack("!i", len(text) + 4) + text


def parse_columns(body: bytes) -> list[str]:
    """Return the names of the columns of a RowDescription."""
    (count,) = struct.unpack_from("!h", body)
    names, position = [], 2
    for _column in range(count):
        end = body.index(b"\0", position)
        names.append(body[position:end].decode())
        position = end + 1 + 18
    return names


def parse_values(body: bytes) -> list[str | None]:
    """Return the values of a DataRow."""
    (count,) = struct.unpack_from("!h", body)
    values: list[str | None] = []
    position = 2
    for _value in range(count):
        (length,) = struct.unpack_from("!i", body, position)
        position += 4
        if length < 0:
            values.append(None)
            continue
        values.append(body[position : position + length].decode())
        position += length
    return values


def parse_error(body: bytes) -> str:
    """Return the message of an ErrorResponse."""
    fields = {part[:1]: part[1:].decode(errors="replace") for part in body.split(b"\0") if part}
    return fields.get(b"M", "an error without a message")


class Console:
    """A connection to the console.

    Parameters: path of the Unix socket; user, `pgbouncer` where the system user is the one that PgBouncer runs as;
    timeout in seconds. Raises Refusal.
    """

    def __init__(self, path: str, user: str = "pgbouncer", timeout: float = 5.0) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
            self._socket.sendall(startup_message(user, "pgbouncer"))
            self._until_ready()
        except OSError as error:
            self._socket.close()
            raise Refusal(f"{path}: {error.strerror or error}") from error
        except Refusal:
            self._socket.close()
            raise

    def __enter__(self) -> Console:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def limit(self, seconds: float) -> None:
        """Wait no longer than that for each answer from now on."""
        self._socket.settimeout(seconds)

    def rows(self, statement: str) -> list[dict[str, str | None]]:
        """Run a statement such as SHOW POOLS and return its rows as dicts of text. Raises Refusal."""
        try:
            self._socket.sendall(query_message(statement))
            messages = self._until_ready()
        except OSError as error:
            raise Refusal(f"{self._path}: {statement}: {error.strerror or error}") from error
        columns = next((parse_columns(body) for kind, body in messages if kind == b"T"), [])
        return [dict(zip(columns, parse_values(body), strict=True)) for kind, body in messages if kind == b"D"]

    def _until_ready(self) -> list[tuple[bytes, bytes]]:
        """Return the messages up to ReadyForQuery; an error, or a wish for a password, is raised.

        After an error the console is ready for the next statement (protocol-flow of PostgreSQL, "Simple Query"), or closes.
        """
        messages: list[tuple[bytes, bytes]] = []
        error: Refusal | None = None
        while True:
            try:
                kind, body = self._receive()
            except (OSError, Refusal) as closed:
                raise error or closed from None
            if kind == b"E":
                error = Refusal(f"{self._path}: {parse_error(body)}")
            if kind == b"R" and struct.unpack_from("!i", body) != (0,):
                raise Refusal(f"{self._path}: asks for a password: run this as the user that PgBouncer runs as")
            if kind == b"Z":
                if error:
                    raise error
                return messages
            messages.append((kind, body))

    def _receive(self) -> tuple[bytes, bytes]:
        kind, length = struct.unpack("!ci", self._exactly(5))
        return kind, self._exactly(length - 4)

    def _exactly(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise Refusal(f"{self._path}: the connection was closed")
            data += part
        return data
