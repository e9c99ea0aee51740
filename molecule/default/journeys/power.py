# SPDX-License-Identifier: Apache-2.0
"""The power switch of the lab's hosts: a listener on this machine, which stands for their BMCs, and what calls it on a host."""

from __future__ import annotations

import http.server
import secrets
import subprocess
import threading
from collections.abc import Callable
from types import TracebackType

from faults.lab import Lab, Machine

CALLER = "/usr/local/sbin/lab-power-off"
SCRIPT = """#!/usr/bin/python3
# Ask the lab's power switch to turn a host off; ends with 0 only when it says that the host is off.
import sys
import urllib.request

request = urllib.request.Request("http://{address}:{port}/" + sys.argv[1], b"", {{"Authorization": "{token}"}})
with urllib.request.build_opener(urllib.request.ProxyHandler({{}})).open(request, timeout=20) as answer:
    print(answer.read().decode())
"""


def off(machine: Machine) -> str:
    """Turn a host off, and see that it is."""
    subprocess.run(["docker", "kill", machine.container], capture_output=True, check=False)
    return "" if machine.state == "exited" else f"{machine.name} is {machine.state}"


class PowerSwitch:
    """Listens while it is entered. act: what an order does; it returns what is wrong, empty where the host is off."""

    def __init__(self, lab: Lab, act: Callable[[Machine], str] = off) -> None:
        self._lab = lab
        self._token = secrets.token_hex(16)
        self.orders: list[str] = []
        switch = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                name = self.path.strip("/")
                if self.headers.get("Authorization") != switch._token or name not in lab.machines:
                    self.send_error(403)
                    return
                switch.orders.append(name)
                problem = act(lab.machines[name])
                self.send_response(503 if problem else 200)
                self.end_headers()
                self.wfile.write((problem or "off").encode())

            def log_message(self, *_words: object) -> None:
                """Keep quiet."""

        self._server = http.server.ThreadingHTTPServer((lab.clients, 0), Handler)

    def __enter__(self) -> PowerSwitch:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        script = SCRIPT.format(address=self._lab.clients, port=self._server.server_port, token=self._token)
        for machine in self._lab.machines.values():
            machine.shell(f"umask 077; cat > {CALLER} <<'END'\n{script}END\nchmod 0700 {CALLER}")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()
