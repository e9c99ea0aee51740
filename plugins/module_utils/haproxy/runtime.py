# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""HAProxy's runtime API on its Unix socket.

Source: HAProxy's Management Guide, "Unix Socket commands".
"""

from __future__ import annotations

import socket


def ask(path: str, command: str, timeout: float) -> str:
    """Return HAProxy's answer to a command. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(path)
        connection.sendall(command.encode() + b"\n")
        parts = []
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts).decode()
