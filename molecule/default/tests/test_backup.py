# SPDX-License-Identifier: Apache-2.0
"""Backup jobs: they wait for their time without a controller, and tell of themselves."""

from __future__ import annotations

import json

from .conftest import Lab


def test_every_job_waits_for_its_next_run(lab: Lab) -> None:
    jobs = json.loads(lab.backup.check_output("holdfast-backup status"))
    assert {job["kind"] for job in jobs} >= {"pgbackrest", "logical", "valkey", "prune", "metrics"}
    assert all(job["scheduled"] and job["next"] for job in jobs)


def test_secrets_are_for_root_alone(lab: Lab) -> None:
    for path in ("/etc/holdfast/backup.json", "/etc/ssl/holdfast/backup.pem"):
        file = lab.backup.file(path)
        assert (file.user, oct(file.mode)) == ("root", "0o600")
    assert "password" not in lab.backup.file("/etc/holdfast/backup-jobs.json").content_string


def test_a_dump_is_made_and_listed(lab: Lab) -> None:
    command = 'holdfast-backup run verify --kind logical --options \'{"databases": ["orderdb"], "parallel": 1}\''
    made = json.loads(lab.backup.check_output(command))["labels"]["logical"]
    found = json.loads(lab.backup.check_output("holdfast-backup catalogue --deep"))
    assert found["repositories"] == {"main": "", "local": ""}
    listed = {entry["label"]: entry for entry in found["backups"]}
    assert all(listed[label]["good"] for label in made)
    assert {listed[label]["kind"] for label in made} == {"full", "globals"}
    assert [finding for finding in found["findings"] if finding["severity"] == "critical"] == []


def test_a_job_that_cannot_run_says_why_in_one_line(lab: Lab) -> None:
    done = lab.backup.run('holdfast-backup run verify --kind logical --options \'{"databases": ["nowhere"]}\'')
    assert done.rc == 1
    assert done.stderr.startswith("holdfast-backup: there is no database nowhere; there are ")
    last = json.loads(lab.backup.check_output("cat /var/lib/holdfast/backup-jobs/verify.json"))
    assert (last["state"], last["ok"]) == ("failed", False)
