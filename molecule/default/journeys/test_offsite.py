# SPDX-License-Identifier: Apache-2.0
"""Copies off site, on the running lab: S3, S3 encrypted in another bucket, Azure Blob; killed, tampered with, lost, brought back."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.lab import Lab as Victims
from faults.lab import Machine
from lab_access import ROOT, Lab, ansible_playbook

sys.path.insert(0, str(ROOT / "tests"))
import object_stores

KILLS = int(os.environ.get("HOLDFAST_KILLS", "10"))
CONFIG = "/etc/holdfast/backup.json"
CA = "/etc/holdfast/object-stores.pem"
BACKUPS = "/var/lib/holdfast/backup"
DUMP = ("run", "journey", "--kind", "logical", "--options", '{"sections": ["globals"]}')
UPLOAD = ("run", "journey-upload", "--kind", "upload")


def own_address(lab: Lab) -> str:
    """Return the address by which the lab reaches this machine."""
    told = subprocess.run(
        ["ip", "-json", "route", "get", lab.addresses["node1"]], capture_output=True, text=True, check=True
    )
    return str(json.loads(told.stdout)[0]["prefsrc"])


def places(stores: object_stores.Stores) -> list[dict[str, Any]]:
    """Return the declaration of three places."""
    s3 = {
        "type": "s3",
        "endpoint": stores.address,
        "port": stores.s3_port,
        "region": "us-east-1",
        "key": object_stores.S3_KEY,
        "key_secret": object_stores.S3_KEY,
        "ca_file": CA,
    }
    azure = {
        "name": "azure",
        "type": "azure",
        "account": object_stores.AZURE_ACCOUNT,
        "key": object_stores.AZURE_KEY,
        "container": object_stores.BUCKET,
        "endpoint": stores.address,
        "port": stores.azure_port,
        "uri_style": "path",
        "ca_file": CA,
    }
    secret = {"bucket": object_stores.SECOND_BUCKET, "crypt_password": "the passphrase of a test", "verify": "checksum"}
    return [{"name": "s3", "bucket": object_stores.BUCKET, **s3}, {"name": "secret", **secret, **s3}, azure]


@pytest.fixture(scope="module")
def stores(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Running stores that the backup host knows; afterwards it is as before. Gives the folder of their data."""
    folder = tmp_path_factory.mktemp("stores")
    with object_stores.running(own_address(lab), folder) as running:
        lab.backup.check_output(f"cat > {CA} <<'END'\n{running.ca}END")
        declared = json.dumps({"backup_offsite": places(running)})
        done = ansible_playbook("playbooks/tiers/schedule.yml", "--limit", "backup1", "--extra-vars", declared)
        assert done.returncode == 0, done.stdout[-3000:]
        yield folder
        done = ansible_playbook("playbooks/tiers/schedule.yml", "--limit", "backup1")
        assert done.returncode == 0, done.stdout[-3000:]


def program(lab: Lab, *words: str) -> Any:
    """Run the program; return what it told."""
    return json.loads(lab.backup.check_output(" ".join(f"'{word}'" for word in ("holdfast-backup", *words))))


def where(lab: Lab, label: str) -> dict[str, bool]:
    """Return in which places a backup is listed, and whether good."""
    return {
        entry["repository"]: entry["good"] for entry in program(lab, "catalogue")["backups"] if entry["label"] == label
    }


def test_a_backup_is_in_every_place_and_comes_back(lab: Lab, stores: Path) -> None:
    label = program(lab, *DUMP)["labels"]["logical"][0]
    program(lab, *UPLOAD)
    assert where(lab, label) == {"local": True, "s3": True, "secret": True, "azure": True}
    assert program(lab, *UPLOAD)["message"] == "0 copies made"
    lab.backup.check_output(f"cp -a {BACKUPS}/logical/{label} /tmp/{label}")
    for name in ("secret", "azure", "s3"):
        lab.backup.check_output(f"rm -r {BACKUPS}/logical/{label}")
        program(lab, "fetch", name, "logical", label)
        lab.backup.check_output(f"diff -r {BACKUPS}/logical/{label} /tmp/{label}")
    lab.backup.check_output(f"rm -r /tmp/{label}")


def test_nobody_reads_an_encrypted_copy(lab: Lab, stores: Path) -> None:
    names = [str(path.relative_to(stores / "s3")) for path in (stores / "s3").rglob("*")]
    plain = [name for name in names if name.startswith(f"{object_stores.BUCKET}/")]
    secret = [name for name in names if name.startswith(f"{object_stores.SECOND_BUCKET}/")]
    assert [name for name in plain if "globals.sql" in name]
    assert secret
    assert not [name for name in secret if "globals" in name or "logical" in name or "manifest" in name]


def test_killed_uploads_are_never_listed(lab: Lab, stores: Path) -> None:
    seen = 0
    for _kill in range(KILLS):
        label = program(lab, *DUMP)["labels"]["logical"][0]
        unit = f"journey-{random.getrandbits(40)}"
        lab.backup.check_output(f"systemd-run --quiet --unit={unit} holdfast-backup " + " ".join(UPLOAD))
        time.sleep(random.uniform(0.2, 6))
        lab.backup.run(f"systemctl kill --signal=KILL {unit}.service; systemctl reset-failed {unit}.service")
        found = where(lab, label)
        seen += len(found) - 1
        assert all(found.values()), found
    program(lab, *UPLOAD)
    assert where(lab, label) == {"local": True, "s3": True, "secret": True, "azure": True}
    print(f"{KILLS} uploads killed; {seen} copies were whole by then, no other was listed")


def test_a_store_that_is_gone_is_told(lab: Lab, stores: Path) -> None:
    rule = f"OUTPUT -p tcp --dport {object_stores.AZURE_PORT} -j REJECT --reject-with tcp-reset".split()
    backup = Machine("backup1", f"{Victims().name}-backup1", "")
    backup.network("iptables", "-A", *rule)
    try:
        found = program(lab, "catalogue")
        assert found["repositories"]["azure"]
        assert found["repositories"]["s3"] == ""
        assert [item["where"] for item in found["findings"] if item["rule"] == "backup_repository_unreachable"] == [
            "azure"
        ]
    finally:
        backup.network("iptables", "-D", *rule)
    assert program(lab, "catalogue")["repositories"]["azure"] == ""
