# SPDX-License-Identifier: Apache-2.0
"""Packages that somebody installs anew on the leader, outside update.yml: no failover, and check.yml says where that is not kept."""

from __future__ import annotations

import pytest
from lab_access import ROOT, Lab, ansible_playbook, changes, failures, patroni_leader, psql
from newcomers import Newcomers
from testinfra.host import Host

UNITS = ["etcd.service", "patroni.service", "haproxy.service", "pgbouncer.service", "keepalived.service"]
PACKAGES = ["etcd-server", "patroni", "haproxy", "pgbouncer", "keepalived", "valkey-server"]
POLICY = "/usr/sbin/policy-rc.d"


def processes(host: Host) -> dict[str, str]:
    """Return the main process of each unit, and the start of PostgreSQL."""
    found = {unit: host.check_output(f"systemctl show {unit} --property MainPID --value") for unit in UNITS}
    ports = host.check_output("systemctl list-units --plain --no-legend 'valkey-server@*' | cut -d' ' -f1").split()
    found |= {unit: host.check_output(f"systemctl show {unit} --property MainPID --value") for unit in ports}
    return {**found, "postgresql": psql(host, "SELECT pg_postmaster_start_time()")}


def postgresql_package(host: Host) -> str:
    """Return the name of the server's package."""
    return host.check_output("dpkg-query --show --showformat '${Package}\\n' 'postgresql-[0-9]*' | head -1").strip()


def test_reinstalled_packages_restart_nothing(lab: Lab) -> None:
    leader = patroni_leader(lab)
    host = lab.hosts[leader]
    before = processes(host)
    packages = [*PACKAGES, postgresql_package(host)]
    with Newcomers(lab) as newcomers:
        host.check_output(
            "DEBIAN_FRONTEND=noninteractive apt-get install --yes --reinstall -o Dpkg::Options::=--force-confold "
            + " ".join(packages)
        )
    assert processes(host) == before
    assert patroni_leader(lab) == leader
    assert newcomers.errors == []
    assert newcomers.lost() == 0
    print(f"{len(packages)} packages reinstalled on {leader}, {len(newcomers.acknowledged)} new clients, none refused")


@pytest.mark.parametrize("instead", ["rm", "printf '#!/bin/sh\\nexit 0\\n' >"], ids=["none", "another"])
def test_a_host_without_the_policy_is_named(lab: Lab, instead: str) -> None:
    name, host = next(iter(lab.hosts.items()))
    kept = host.file(POLICY).content_string
    try:
        host.check_output(f"{instead} {POLICY}")
        checked = ansible_playbook(ROOT / "playbooks/check.yml")
        assert checked.returncode != 0
        told = [line for line in failures(checked).splitlines() if "restarts_held" in line]
        assert [name in line for line in told] == [True]
    finally:
        host.check_output(f"rm -f {POLICY}")
        changes(ansible_playbook(ROOT / "playbooks/site.yml", "--tags", "host"))
    assert host.file(POLICY).content_string == kept
