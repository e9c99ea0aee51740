# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A connection to a Valkey server of this host through its Unix socket.

It needs no certificate and no library, so it works where a certificate has expired and before any package but the
server itself is there. The socket is open to root and the server's user only; the server asks for the password anyway.
Protocol: https://valkey.io/topics/protocol/ (RESP2).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


class LocalServer:
    """One connection.

    Parameters: path, the Unix socket; timeout, seconds for each answer. Raises ConnectionRefusedError if nobody listens,
    OSError for everything else that keeps from connecting.
    """

    def __init__(self, path: str, timeout: float = 10.0) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            self._socket.close()
            raise ConnectionRefusedError(error.errno, error.strerror, path) from error
        self._stream = self._socket.makefile("rb")

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()
        self._socket.close()

    def pid(self) -> int:
        """Return the process id of the server (SO_PEERCRED, unix(7))."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return struct.unpack("3i", credentials)[0]

    def login(self, username: str, passwords: Sequence[str]) -> None:
        """Log in with the first password that the server takes. Raises the last Refusal if it takes none."""
        for position, password in enumerate(passwords, start=1):
            try:
                self.call("AUTH", username, password)
                return
            except Refusal:
                if position == len(passwords):
                    raise

    def call(self, *words: str) -> Any:
        """Send one command, return its answer: str, int, None or a list of those. Raises Refusal, OSError."""
        encoded = [word.encode() for word in words]
        frames = [b"$%d\r\n%s\r\n" % (len(word), word) for word in encoded]
        self._socket.sendall(b"*%d\r\n%s" % (len(frames), b"".join(frames)))
        return self._answer()

    def mapping(self, *words: str) -> dict[str, str]:
        """Send one command and return its flat list of names and values as a dict."""
        answer = self.call(*words)
        return dict(zip(answer[::2], answer[1::2], strict=True))

    def info(self, section: str) -> dict[str, str]:
        """Return one section of INFO."""
        lines = self.call("INFO", section).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _answer(self) -> Any:
        line = self._stream.readline()
        if not line.endswith(b"\r\n"):
            raise ConnectionResetError("the server closed the connection")
        kind, rest = line[:1], line[1:-2].decode()
        if kind == b"+":
            return rest
        if kind == b"-":
            raise Refusal(rest)
        if kind == b":":
            return int(rest)
        if kind == b"$":
            return None if int(rest) < 0 else self._stream.read(int(rest) + 2)[:-2].decode()
        if kind == b"*":
            return [self._answer() for _item in range(int(rest))]
        raise ConnectionError(f"the server answered {line[:40]!r}, which is no RESP2")
