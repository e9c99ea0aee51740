# SPDX-License-Identifier: Apache-2.0
"""The collection's own programs on the lab: of this collection, named where they are not, and mended by site.yml."""

from __future__ import annotations

import json

import yaml
from testinfra.host import Host

from .conftest import ROOT, Lab, ansible_playbook

FOLDER = "/usr/local/lib/holdfast/programs"
ON_POSTGRESQL = {"etcd-leader-away", "patroni-follow", "patroni-guard", "pgbackrest-replica"}
ON_CONVERGED = ON_POSTGRESQL | {"pgbouncer-hold", "pgbouncer-reload", "valkey-respread"}


def versions(host: Host) -> dict[str, str]:
    """Return what each program says of itself."""
    names = host.check_output(f"ls {FOLDER}").split()
    told = [host.check_output(f"/usr/bin/python3 -I {FOLDER}/{name} --version") for name in names]
    assert [line.split()[0] for line in told] == names
    return dict(line.split(maxsplit=1) for line in told)


def findings(lab: Lab) -> dict[str, str]:
    """Return what check.yml says of programs, by host and program."""
    done = ansible_playbook(ROOT / "playbooks/check.yml", "--extra-vars", "check_format=json check_fail_on=none")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    text = done.stdout[done.stdout.index("{") :]
    found, _end = json.JSONDecoder().raw_decode(text)
    return {line["where"]: line["found"] for line in found["findings"] if line["rule"] == "program_current"}


def test_programs_are_of_this_collection(lab: Lab) -> None:
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    for host in lab.hosts.values():
        found = versions(host)
        assert set(found) == ON_CONVERGED
        assert {text.split()[0] for text in found.values()} == {version}
    assert set(versions(lab.backup)) == {"holdfast-backup"}
    assert (
        lab.backup.check_output("holdfast-backup --version")
        == f"holdfast-backup {versions(lab.backup)['holdfast-backup']}"
    )


def test_nothing_is_left_of_shared_code(lab: Lab) -> None:
    for host in (*lab.hosts.values(), lab.backup):
        assert (
            host.check_output(
                "find /usr/local/lib/holdfast -path */programs -prune -o -name ansible_collections -print"
            )
            == ""
        )


def test_what_was_deleted_edited_or_outdated_is_named_and_mended(lab: Lab) -> None:
    assert findings(lab) == {}
    first, second, third = lab.hosts
    lab.hosts[first].check_output(f"rm {FOLDER}/valkey-respread")
    lab.hosts[second].check_output(f"sh -c 'echo >> {FOLDER}/patroni-follow/patroni_follow.py'")
    # A whole build of an earlier release: its VERSION tells the digest of exactly these files.
    lab.hosts[third].check_output(f"sed -i 's/^[^ ]*/0.0.1/' {FOLDER}/patroni-guard/VERSION")
    found = findings(lab)
    assert found[f"{first}, valkey-respread"] == f"{FOLDER}/valkey-respread is missing"
    assert found[f"{second}, patroni-follow"].endswith("patroni_follow.py content differs")
    assert found[f"{third}, patroni-guard"].startswith("version 0.0.1 ")
    assert len(found) == 3
    done = ansible_playbook(ROOT / "playbooks/site.yml", "--tags", "patroni,valkey")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    assert findings(lab) == {}
    test_programs_are_of_this_collection(lab)
