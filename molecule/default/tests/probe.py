# SPDX-License-Identifier: Apache-2.0
"""Knocks at ports from where it runs and says what happened: as a client without TLS, without a certificate, with one.

Reads {"certificates": {name: {"certificate": PEM, "key": PEM}}, "ca": PEM, "knocks": [[address, port, protocol, manner]]}
from standard input and writes one verdict for each knock: "served" or the reason why not. Standard library only, as it
runs on the hosts. manner is "plain", "anonymous" (TLS without a certificate), or the name of a certificate.

What counts as served is an answer of the service behind the door, so that a service that lets a stranger in is seen
whatever it says to him later: HTTP a status below 400; PostgreSQL a request for authentication; Valkey any reply;
the cluster bus, which never speaks first, a connection that stays open.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import struct
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

TIMEOUT_SECONDS = 5
# How long the cluster bus has to keep a connection open to count as serving it.
PATIENCE_SECONDS = 1.5
POSTGRESQL_TLS = struct.pack("!II", 8, 80877103)


def postgresql_startup() -> bytes:
    """Return the message that begins a PostgreSQL session (protocol 3.0)."""
    body = struct.pack("!I", 196608) + b"user\0orderuser\0database\0orderdb\0\0"
    return struct.pack("!I", len(body) + 4) + body


REQUESTS = {
    "http": b"GET %s HTTP/1.0\r\nHost: probe\r\n\r\n",
    "postgresql": postgresql_startup(),
    "valkey": b"PING\r\n",
    "bus": b"PING\r\n",
}


def judge_http(reply: bytes) -> str:
    line = reply.split(b"\r\n", 1)[0].decode("latin-1")
    return "served" if line.startswith("HTTP/") and int(line.split()[1]) < 400 else f"answered {line!r}"


def judge_postgresql(reply: bytes) -> str:
    return "served" if reply[:1] == b"R" else f"answered {reply[5:].decode('latin-1')!r}"


def judge_valkey(reply: bytes) -> str:
    return "served" if reply[:1] in b"+-:$*" else f"answered {reply!r}"


JUDGES = {"http": judge_http, "postgresql": judge_postgresql, "valkey": judge_valkey}


def talk(connection: socket.socket, protocol: str) -> str:
    """Say the first word of a protocol and judge the answer."""
    protocol, _colon, path = protocol.partition(":")
    request = REQUESTS[protocol]
    if protocol == "bus":
        # Over TLS the first bytes would be taken for a packet: wait in silence. Without TLS they are the knock.
        if not isinstance(connection, ssl.SSLSocket):
            connection.sendall(request)
        connection.settimeout(PATIENCE_SECONDS)
        try:
            return "closed" if connection.recv(1) == b"" else "answered"
        except TimeoutError:
            return "served"
    connection.sendall(request % path.encode() if protocol == "http" else request)
    reply = connection.recv(4096)
    return JUDGES[protocol](reply) if reply else "closed"


def context_for(question: dict, manner: str, folder: str) -> ssl.SSLContext:
    """Return the TLS settings of a client. Only the cluster's own client looks at the server's certificate."""
    known = manner == "application"
    context = ssl.create_default_context(cadata=question["ca"]) if known else ssl._create_unverified_context()
    if manner != "anonymous":
        path = os.path.join(folder, manner + ".pem")
        context.load_cert_chain(path)
    return context


def attempt(question: dict, folder: str, door: tuple[str, int, str], manner: str) -> str:
    """Open a connection, as plain text or over TLS, and return what the service made of it. Raises OSError."""
    address, port, protocol = door
    with socket.create_connection((address, port), TIMEOUT_SECONDS) as connection:
        if manner == "plain":
            return talk(connection, protocol)
        if protocol == "postgresql":
            connection.sendall(POSTGRESQL_TLS)
            if connection.recv(1) != b"S":
                return "no TLS offered"
        context = context_for(question, manner, folder)
        with context.wrap_socket(connection, server_hostname=address) as secured:
            return talk(secured, protocol)


def knock(question: dict, folder: str, one: list) -> str:
    """Return the verdict of one knock."""
    address, port, protocol, manner = one
    try:
        return attempt(question, folder, (address, port, protocol), manner)
    except ssl.SSLError as error:
        return f"TLS: {error.reason}"
    except ConnectionRefusedError:
        return "NOBODY LISTENS"
    except TimeoutError:
        return "NO ANSWER"
    except OSError as error:
        return f"cut off: {error}"


def main() -> None:
    """Answer the question on standard input."""
    question = json.load(sys.stdin)
    with tempfile.TemporaryDirectory() as folder:
        for name, pair in question["certificates"].items():
            with open(os.path.join(folder, name + ".pem"), "w", encoding="ascii") as stream:
                stream.write(pair["key"] + pair["certificate"])
        with ThreadPoolExecutor(16) as pool:
            verdicts = pool.map(lambda one: knock(question, folder, one), question["knocks"])
            json.dump(list(verdicts), sys.stdout)


if __name__ == "__main__":
    main()
