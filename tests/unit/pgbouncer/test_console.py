# SPDX-License-Identifier: Apache-2.0
"""PgBouncer's console: the protocol against a socket that speaks it, and rows as data."""

from __future__ import annotations

import socket
import struct
import threading

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer import console, pools
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st


def message(kind, body=b""):
    """A message of the server."""
    return kind + struct.pack("!i", len(body) + 4) + body


def columns(*names):
    """A RowDescription."""
    fields = b"".join(name.encode() + b"\0" + struct.pack("!ihihih", 0, 0, 25, -1, -1, 0) for name in names)
    return message(b"T", struct.pack("!h", len(names)) + fields)


def row(*values):
    """A DataRow."""
    fields = [struct.pack("!i", -1) if value is None else struct.pack("!i", len(value)) + value for value in values]
    return message(b"D", struct.pack("!h", len(values)) + b"".join(fields))


READY = message(b"Z", b"I")
WELCOME = message(b"R", struct.pack("!i", 0)) + message(b"S", b"server_version\x001.24\0") + READY


@pytest.fixture(name="serve")
def _serve(tmp_path):
    """Serve one connection: send each answer after something was received; returns the path of the socket."""
    listeners, threads = [], []

    def serve(*answers):
        path = str(tmp_path / "socket")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        listeners.append(listener)

        def run():
            connection, _address = listener.accept()
            with connection:
                for answer in answers:
                    connection.recv(4096)
                    connection.sendall(answer)

        threads.append(threading.Thread(target=run))
        threads[-1].start()
        return path

    yield serve
    for thread in threads:
        thread.join()
    for listener in listeners:
        listener.close()


def test_rows_are_dicts(serve):
    answer = (
        columns("name", "host") + row(b"orderdb", b"127.0.0.1") + row(b"pgbouncer", None) + message(b"C", b"SHOW\0")
    )
    path = serve(WELCOME, answer + READY)
    with console.Console(path) as opened:
        assert opened.rows("SHOW DATABASES") == [
            {"name": "orderdb", "host": "127.0.0.1"},
            {"name": "pgbouncer", "host": None},
        ]


def test_an_error_is_raised_with_its_message(serve):
    path = serve(WELCOME, message(b"E", b"SERROR\0C08P01\0Minvalid command\0\0") + READY)
    with console.Console(path) as opened, pytest.raises(Refusal, match=f"{path}: invalid command"):
        opened.rows("SHOW NOTHING")


def test_a_wish_for_a_password_names_the_remedy(serve):
    path = serve(message(b"R", struct.pack("!i", 10) + b"SCRAM-SHA-256\0\0"))
    with pytest.raises(Refusal, match="run this as the user that PgBouncer runs as"):
        console.Console(path)


def test_a_closed_connection_is_an_error(serve):
    path = serve(b"R\0\0")
    with pytest.raises(Refusal, match="the connection was closed"):
        console.Console(path)


def test_no_socket_is_an_error(tmp_path):
    with pytest.raises(Refusal, match="No such file or directory"):
        console.Console(str(tmp_path / "none"))


def test_silence_is_an_error(serve):
    path = serve(WELCOME)
    with console.Console(path, timeout=0.2) as opened, pytest.raises(Refusal):
        opened.rows("SHOW POOLS")


def test_the_first_message_is_as_the_protocol_wants():
    assert console.startup_message("u", "d") == b"\0\0\0\x1b\0\x03\0\0user\0u\0database\0d\0\0"


@given(st.lists(st.none() | st.text(), max_size=5))
def test_values_are_read_back(values):
    sent = row(*(None if value is None else value.encode() for value in values))
    assert console.parse_values(sent[5:]) == values


POOL = {
    "database": "orderdb", "user": "orderuser", "cl_active": "8", "cl_waiting": "1", "sv_active": "4", "sv_idle": "1",
    "sv_used": "2", "sv_tested": "1", "maxwait": "1", "maxwait_us": "500000", "pool_mode": "transaction",
}  # fmt: skip


def test_pools_are_read_without_the_console():
    assert pools.parse_pools([POOL, {**POOL, "database": "pgbouncer"}]) == [
        {
            "database": "orderdb",
            "user": "orderuser",
            "mode": "transaction",
            "clients_active": 8,
            "clients_waiting": 1,
            "servers_active": 4,
            "servers_idle": 4,
            "longest_wait": 1.5,
        }
    ]


def test_databases_are_read_without_the_console():
    database = {
        "name": "orderdb", "host": None, "port": "5000", "paused": "1", "disabled": "0", "current_connections": "2", "pool_size": "20"
    }  # fmt: skip
    assert pools.parse_databases([database, {**database, "name": "pgbouncer"}]) == [
        {
            "name": "orderdb",
            "address": "local:5000",
            "paused": True,
            "disabled": False,
            "connections": 2,
            "pool_size": 20,
        }
    ]
