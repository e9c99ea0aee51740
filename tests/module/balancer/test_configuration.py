# SPDX-License-Identifier: Apache-2.0
"""HAProxy of each Debian release accepts the configuration that the role renders for it, without a warning."""

from __future__ import annotations

import json
import pathlib
import re

from .conftest import ROOT, render, run


def local(text: str) -> str:
    """The configuration with what only a balancer has replaced: the script's path and the system user."""
    script = str(ROOT / "roles/haproxy/files/hold.lua")
    lines = text.replace("/etc/haproxy/hold.lua", script).splitlines(keepends=True)
    return "".join(line for line in lines if line.split() not in (["user", "haproxy"], ["group", "haproxy"]))


def test_haproxy_accepts_its_configuration(haproxy: str, rendered: pathlib.Path) -> None:
    path = rendered / "local.cfg"
    path.write_text(local((rendered / "haproxy.cfg").read_text()))
    result = run(haproxy, "-c", "-f", str(path))
    assert result.returncode == 0, result.stderr
    assert "WARNING" not in result.stderr


def test_haproxy_refuses_a_broken_one(haproxy: str, rendered: pathlib.Path) -> None:
    path = rendered / "broken.cfg"
    path.write_text(local((rendered / "haproxy.cfg").read_text()).replace("check-ssl", "check-tls"))
    assert run(haproxy, "-c", "-f", str(path)).returncode != 0


def test_every_member_is_checked_with_verification(rendered: pathlib.Path) -> None:
    text = (rendered / "haproxy.cfg").read_text()
    assert text.count("check-ssl verify required") == 3
    assert "verify none" not in text


def test_pgbouncer_goes_through_haproxy_only(rendered: pathlib.Path) -> None:
    text = (rendered / "pgbouncer.ini").read_text()
    assert "* = host=127.0.0.1 port=5000" in text
    assert "orderdb_ro = host=127.0.0.1 port=5001 dbname='orderdb'" in text
    assert "server_tls_sslmode = verify-full" in text


def test_chosen_ports_are_those_of_every_file(
    suite: str, haproxy: str, certificates: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    usual = {"pgbouncer": 6432, "haproxy_read_write": 5000, "haproxy_read_only": 5001, "haproxy_synchronous": 5002}
    usual["haproxy_statistics"] = 7000
    chosen = {f"cluster_port_{name}": port + 20000 for name, port in usual.items()}
    folder = render(suite, certificates, tmp_path, "-e", json.dumps(chosen))
    text = "\n".join(path.read_text() for path in sorted(folder.iterdir()) if path.is_file())
    found = {int(number) for number in re.findall(r"(?:[:/]|port ?= ?)(\d{4,5})\b", text)}
    assert found & set(usual.values()) == set()
    assert set(chosen.values()) <= found
    path = folder / "local.cfg"
    path.write_text(local((folder / "haproxy.cfg").read_text()))
    result = run(haproxy, "-c", "-f", str(path))
    assert result.returncode == 0, result.stderr
