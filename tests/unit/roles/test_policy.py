# SPDX-License-Identifier: Apache-2.0
"""The policy that keeps packages from restarting the cluster's services, as its callers run it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
POLICY = ROOT / "roles/host/templates/policy-rc.d.j2"


@pytest.mark.parametrize("action", ["start", "restart", "stop", "reload"])
@pytest.mark.parametrize(
    ("unit", "answer"),
    [
        ("patroni", 101),
        ("patroni.service", 101),
        ("etcd.service", 101),
        ("etcd-leader-away.path", 101),
        ("patroni-follow.service", 101),
        ("postgresql@17-main.service", 101),
        ("pgbackrest-server.service", 101),
        ("haproxy", 101),
        ("pgbouncer.service", 101),
        ("keepalived.service", 101),
        ("valkey-server@7001.service", 101),
        ("ssh", 0),
        ("chrony.service", 0),
        ("nginx", 0),
    ],
)
def test_the_clusters_services_are_left_alone_and_no_others(unit: str, action: str, answer: int) -> None:
    assert "{{" not in POLICY.read_text(encoding="utf-8")
    assert subprocess.run(["sh", POLICY, unit, action], check=False).returncode == answer
