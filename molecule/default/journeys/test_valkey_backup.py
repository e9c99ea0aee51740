# SPDX-License-Identifier: Apache-2.0
"""The operator's journey of Valkey's backups on the running lab: back up under a client, restore, go back; drills of both engines."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from lab_access import ROOT, Lab, ansible_playbook

sys.path.insert(0, str(ROOT / "tests/module"))
import valkey_load

KEYS = 2000
BACKUPS = "/var/lib/holdfast/backup"
REPOSITORY = "/var/lib/pgbackrest"
METRICS = "/var/lib/prometheus/node-exporter/holdfast_backup.prom"
RESTORE = "playbooks/restore_valkey.yml"
DRILL = "playbooks/restore_drill.yml"


@pytest.fixture(scope="module")
def login(lab: Lab) -> dict[str, Any]:
    """How the application logs in."""
    certificate, key = lab.client_certificate
    return {
        "host": lab.addresses["node1"],
        "ca_cert": str(lab.certificate_authority),
        "client_cert": str(certificate),
        "client_key": str(key),
        "username": "orderapp",
        "password": lab.secret("valkey_user_orderapp"),
    }


@pytest.fixture(scope="module")
def label(lab: Lab, login: dict[str, Any]) -> Iterator[str]:
    """A backup that the backup host made under a client."""
    valkey_load.fill(7001, KEYS, 5, login)
    valkey_load.cluster_client(7001, login).delete("after")
    with valkey_load.Load(7001, KEYS, login) as load:
        done = json.loads(lab.backup.check_output("holdfast-backup run valkey"))
    print(done["message"], {name: value for name, value in load.seen.items() if name != "wrong"})
    assert load.seen["errors"] == []
    assert load.seen["wrong"] == []
    [label] = done["labels"]["valkey"]
    yield label


def keys(lab: Lab) -> int:
    """Number of keys of all primaries."""
    found = 0
    for host in lab.addresses:
        for port in (7001, 7002):
            with lab.valkey_admin(host, port) as client:
                found += client.dbsize() if client.role()[0] == "master" else 0
    return found


def manifest(lab: Lab, label: str) -> dict[str, Any]:
    """Return the manifest of a backup."""
    content: dict[str, Any] = json.loads(lab.backup.check_output(f"cat {BACKUPS}/valkey/{label}/manifest.json"))
    return content


def restore(*options: str) -> str:
    """Run the playbook; return what it wrote."""
    words = [word for option in options for word in ("--extra-vars", option)]
    done = ansible_playbook(RESTORE, "--extra-vars", "confirm_restore=lab", *words)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    return done.stdout


def test_a_backup_is_one_moment_and_holds_writers_for_milliseconds(lab: Lab, label: str) -> None:
    found = manifest(lab, label)
    assert found["position"]["held_ms"] < 500
    assert all(shard["offset_counted"] for shard in found["position"]["shards"])
    assert found["keys"] == sum(shard["keys"] for shard in found["position"]["shards"])
    entries = json.loads(lab.backup.check_output("holdfast-backup catalogue"))["backups"]
    assert [entry["good"] for entry in entries if entry["label"] == label] == [True]


def test_a_cluster_that_holds_keys_is_not_touched(lab: Lab, label: str) -> None:
    before = keys(lab)
    for arguments in (["--extra-vars", f"restore_label={label}"], ["--extra-vars", "confirm_restore=lab"]):
        done = ansible_playbook(RESTORE, *arguments)
        assert done.returncode != 0
        assert "Nothing was changed" in done.stdout
    assert keys(lab) == before


def test_a_restore_brings_the_moment_back_and_goes_back(lab: Lab, label: str, login: dict[str, Any]) -> None:
    client = valkey_load.cluster_client(7001, login)
    client.set("after", "the backup")
    told = restore(f"restore_label={label}", "restore_existing=flush", "restore_compare=0")
    count = manifest(lab, label)["keys"]
    assert f"{count} of {count} keys" in told
    print([line for line in told.splitlines() if "keys/s" in line])
    assert keys(lab) == count
    assert client.get("after") is None
    assert valkey_load.missing(7001, KEYS, 5, login) == []
    restore("restore_action=back")
    assert client.get("after") == "the backup"
    assert valkey_load.missing(7001, KEYS, 5, login) == []
    client.close()


def test_a_drill_proves_the_newest_backups(lab: Lab, label: str) -> None:
    done = ansible_playbook(DRILL)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    catalogue = json.loads(lab.backup.check_output("holdfast-backup catalogue"))
    proved = {entry["engine"]: entry["proved"] for entry in catalogue["summary"]}
    for engine in ("postgresql", "valkey"):
        assert proved[engine] is not None
        print(engine, proved[engine]["label"], "RTO", proved[engine]["rto_seconds"])
    proofs = lab.backup.check_output(f"cat {BACKUPS}/proofs/*/*.json")
    assert "pg_amcheck" in proofs
    assert "samples" in proofs
    # Nothing is left running or lying about.
    assert lab.backup.run("ls -d /run/holdfast/valkey-*").rc != 0
    assert lab.backup.run(f"ls -d {BACKUPS}/drill/*").rc != 0


def flip(lab: Lab, file: str) -> None:
    """Change one bit in the middle of a file of the backup host."""
    program = (
        f"f=open('{file}','r+b'); f.seek(0,2); f.seek(f.tell()//2); b=f.read(1); f.seek(-1,1); f.write(bytes([b[0]^1]))"
    )
    lab.backup.check_output(f'python3 -c "{program}"')


@contextmanager
def broken_valkey(lab: Lab) -> Iterator[str]:
    """A newest backup in which a bit is wrong."""
    label = json.loads(lab.backup.check_output("holdfast-backup run valkey"))["labels"]["valkey"][0]
    flip(lab, f"{BACKUPS}/valkey/{label}/shard-00000.rdb")
    try:
        yield label
    finally:
        lab.backup.check_output(f"rm -rf {BACKUPS}/valkey/{label} {BACKUPS}/proofs/valkey/{label}.json")
        lab.backup.check_output("holdfast-backup run valkey")


@contextmanager
def broken_postgresql(lab: Lab) -> Iterator[str]:
    """The same of pgBackRest: a bundle of files."""
    lab.backup.check_output("holdfast-backup now --engines postgresql --type full")
    label = lab.backup.check_output(f"basename $(readlink -f {REPOSITORY}/backup/{lab.cluster}/latest)")
    flip(lab, lab.backup.check_output(f"ls -S -d {REPOSITORY}/backup/{lab.cluster}/{label}/bundle/* | head -1"))
    try:
        yield label
    finally:
        lab.backup.check_output("holdfast-backup now --engines postgresql --type full")
        lab.backup.check_output(f"runuser -u postgres -- pgbackrest --stanza={lab.cluster} expire --set={label}")
        lab.backup.check_output(f"rm -f {BACKUPS}/proofs/postgresql/{label}.json")


@pytest.mark.parametrize(
    ("engine", "broken", "told"),
    [
        ("valkey", broken_valkey, r"has another content than was written \(SHA-256\)"),
        # What a wrong bit is to pgBackRest depends on where it lies: content that the checksum denies, or nothing to decompress.
        ("postgresql", broken_postgresql, r"does not match expected checksum|Data corruption detected"),
    ],
)
def test_a_broken_backup_makes_drill_check_and_metric_fail(lab: Lab, engine: str, broken: Any, told: str) -> None:
    options = ("--extra-vars", json.dumps({"restore_drill_engines": [engine]}))
    metric = f'holdfast_backup_drill_failed{{engine="{engine}"}}'
    with broken(lab) as label:
        done = ansible_playbook(DRILL, *options)
        assert done.returncode != 0
        assert re.search(told, done.stdout), done.stdout[-3000:]
        check = ansible_playbook("playbooks/check.yml")
        assert check.returncode != 0
        assert label in check.stdout
        assert f"{metric} 1" in lab.backup.check_output(f"cat {METRICS}")
    done = ansible_playbook(DRILL, *options)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{metric} 0" in lab.backup.check_output(f"cat {METRICS}")
