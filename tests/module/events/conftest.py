# SPDX-License-Identifier: Apache-2.0
"""A real PostgreSQL on loopback, and the stores that the real libraries wrote."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from event_stores import Server
from ports import free_ports
from postgresql.conftest import USER, Database, find_programs


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A server that trusts whoever comes from this machine."""
    programs = find_programs(Path("/usr/lib/postgresql"))
    # Modules start psql, which needs the libraries of an unpacked release.
    os.environ.update({name: value for name, value in programs.environment.items() if name == "LD_LIBRARY_PATH"})
    folder = Path(tempfile.mkdtemp(prefix="holdfast-events-"))
    if os.geteuid() == 0:
        shutil.chown(folder, USER)
    database = Database("events", folder / "data", *free_ports(1), programs)
    programs.run(
        "initdb",
        "-D",
        database.folder,
        "-U",
        "postgres",
        "--no-sync",
        "--auth=trust",
        "--encoding=UTF8",
        "--locale=C.UTF-8",
    )
    with (database.folder / "postgresql.conf").open("a") as stream:
        stream.write(
            f"port = {database.port}\nunix_socket_directories = '{database.folder}'\nlisten_addresses = '127.0.0.1'\n"
            "fsync = off\nautovacuum = off\nshared_buffers = 256MB\nmax_wal_size = 4GB\n"
        )
    database.start()
    with contextlib.ExitStack() as ended:
        ended.callback(shutil.rmtree, folder)
        ended.callback(database.stop)
        yield Server(database)
