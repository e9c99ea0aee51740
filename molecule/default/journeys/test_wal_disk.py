# SPDX-License-Identifier: Apache-2.0
"""WAL on a disk of its own: members that are copied anew, a restore and the way back keep it there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from lab_access import ROOT, Lab, ansible_playbook, changes, eventually, patroni_leader, patroni_members, psql

DISK = "/srv/wal"
DECLARED = ("-e", json.dumps({"patroni_wal_dir": DISK}))
PATRONI = ROOT / "playbooks/tiers/patroni.yml"
RESTORE = ROOT / "playbooks/restore_postgresql.yml"
PATRONICTL = "patronictl --config-file /etc/patroni/config.yml"


def wal_of(lab: Lab, name: str) -> str:
    """Return where the WAL of a member is."""
    data = lab.hosts[name].check_output("echo /var/lib/postgresql/*/lab/pg_wal")
    return lab.hosts[name].check_output(f"readlink --canonicalize {data}")


def streaming(lab: Lab) -> list[str]:
    """Return the members that lead or follow."""
    return sorted(member["name"] for member in patroni_members(lab) if member["state"] in ("running", "streaming"))


def copy_anew(lab: Lab, name: str) -> None:
    """Let Patroni make a member anew; of a leader, after another leads."""
    others = [other for other in lab.hosts if other != name]
    if patroni_leader(lab) == name:
        lab.hosts[name].check_output(f"{PATRONICTL} switchover lab --leader {name} --candidate {others[0]} --force")
        assert eventually(lambda: patroni_leader(lab), lambda leader: leader == others[0], 60) == others[0]
        assert eventually(lambda: streaming(lab), lambda names: len(names) == 3, 120) == sorted(lab.hosts)
    lab.hosts[name].check_output(f"{PATRONICTL} reinit lab {name} --force --wait")
    assert eventually(lambda: streaming(lab), lambda names: len(names) == 3, 180) == sorted(lab.hosts)


@pytest.fixture(scope="module", autouse=True)
def declared(lab: Lab) -> Iterator[None]:
    """The folder is declared for these tests; afterwards all is as it was."""
    changes(ansible_playbook(PATRONI, *DECLARED))
    yield
    changes(ansible_playbook(PATRONI))
    for name in lab.hosts:
        copy_anew(lab, name)
        lab.hosts[name].check_output(f"rm -r {DISK}")


def test_members_that_are_copied_anew_have_their_wal_there(lab: Lab) -> None:
    for name in lab.hosts:
        copy_anew(lab, name)
        assert wal_of(lab, name) == f"{DISK}/lab"
    assert changes(ansible_playbook(PATRONI, *DECLARED)) == {}


def test_a_restore_keeps_it_there_and_the_old_wal_beside_it(lab: Lab) -> None:
    leader = patroni_leader(lab)
    psql(lab.hosts[leader], "CREATE TABLE IF NOT EXISTS wal_disk AS SELECT 1 AS number", "orderdb")
    psql(lab.hosts[leader], "SELECT pg_switch_wal()")
    restored = ansible_playbook(RESTORE, "-e", "confirm_restore=lab", *DECLARED)
    assert set(changes(restored)) == set(lab.hosts)
    for name, host in lab.hosts.items():
        assert wal_of(lab, name) == f"{DISK}/lab"
        (kept,) = host.check_output("ls -d /var/lib/postgresql/*/lab.before-*").split()
        beside = host.check_output(f"readlink --canonicalize {kept}/pg_wal")
        assert beside == f"{DISK}/lab.before-{kept.rpartition('before-')[2]}"
        assert host.check_output(f"ls {beside} | grep --count '^[0-9A-F]*$'") != "0"
    assert psql(lab.hosts[patroni_leader(lab)], "SELECT number FROM wal_disk", "orderdb") == "1"


def test_what_was_kept_goes_with_its_wal(lab: Lab) -> None:
    assert set(
        changes(ansible_playbook(RESTORE, "-e", "restore_action=cleanup", "-e", "confirm_restore=lab", *DECLARED))
    )
    for host in lab.hosts.values():
        assert host.check_output(f"ls {DISK}") == "lab"
