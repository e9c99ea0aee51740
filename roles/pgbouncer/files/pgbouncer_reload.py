# SPDX-License-Identifier: Apache-2.0
"""systemctl reload of pgbouncer.service: PgBouncer reads its settings.

Where pgbouncer-takeover asked for it, a new process of the program on disk takes the new connections in its place, and the old one ends
with its last client. Runs as the service's control process, whose word systemd takes for who the main process is.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SERVE = Path("/usr/local/lib/holdfast/pgbouncer/pgbouncer-serve")
LISTEN_SECONDS = 10.0
LOOK_SECONDS = 0.1
DRAIN_LOOK_SECONDS = 5.0


def start(serve: Path) -> int:
    """Start a new process as nobody's child, so that systemd becomes its parent; return its number."""
    inner = 'PGBOUNCER_TAKES_OVER=yes setsid "$0" > /dev/null & echo $!'
    return int(subprocess.run(["/bin/sh", "-c", inner, serve], stdout=subprocess.PIPE, check=True).stdout)


def wait_listening(console: Path, pid: int) -> str:
    """Wait until the new process has its console; return what went wrong, nothing where it listens."""
    deadline = time.monotonic() + LISTEN_SECONDS
    while not console.is_socket():
        if not Path(f"/proc/{pid}").exists():
            return "the new process ended"
        if time.monotonic() >= deadline:
            os.kill(pid, signal.SIGQUIT)
            return f"the new process does not listen after {LISTEN_SECONDS:g} s"
        time.sleep(LOOK_SECONDS)
    return ""


def tell_systemd(pid: int) -> None:
    """Say who the main process is now (man 3 sd_notify), and wait until systemd has read it (BARRIER=1)."""
    address = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    reader, writer = os.pipe()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.connect(address)
        notify.send(f"MAINPID={pid}".encode())
        socket.send_fds(notify, [b"BARRIER=1"], [writer])
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)


def end_in_time(old: int, seconds: float) -> None:
    """Disconnect the old process' last clients, each after its transaction, when the time is over. On the side."""
    if os.fork():
        return
    os.setsid()
    deadline = time.monotonic() + seconds
    while Path(f"/proc/{old}").exists():
        if time.monotonic() >= deadline:
            with contextlib.suppress(ProcessLookupError):
                os.kill(old, signal.SIGINT)
            break
        time.sleep(DRAIN_LOOK_SECONDS)
    os._exit(0)


def take_over(folder: Path, old: int) -> int:
    """Let a new process take over; return the exit status."""
    port = os.environ["PGBOUNCER_PORT"]
    new = start(SERVE)
    console = folder / str(new) / f".s.PGSQL.{port}"
    if problem := wait_listening(console, new):
        print(f"{problem}, the old one continues", file=sys.stderr)
        return 1
    beside = folder / f"console.{new}"
    beside.symlink_to(console)
    beside.replace(f"/run/postgresql/.s.PGSQL.{port}")
    tell_systemd(new)
    # TERM, which PgBouncer before 1.23 does not have for this: no new connections, wait for clients.
    os.kill(old, signal.Signals[f"SIG{os.environ['PGBOUNCER_DRAIN_SIGNAL']}"])
    end_in_time(old, float(os.environ["PGBOUNCER_DRAIN_SECONDS"]))
    return 0


def main() -> int:
    """Run; return the exit status."""
    folder, pid = Path(os.environ["RUNTIME_DIRECTORY"]), int(os.environ["MAINPID"])
    try:
        (folder / "takeover").unlink()
    except FileNotFoundError:
        os.kill(pid, signal.SIGHUP)
        return 0
    return take_over(folder, pid)


if __name__ == "__main__":
    sys.exit(main())
