# SPDX-License-Identifier: Apache-2.0
"""Jobs and their units."""

from __future__ import annotations

import json

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import jobs
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

FULL = {"name": "full", "kind": "pgbackrest", "calendar": "Sun  01:30", "options": {"type": "full"}}


def test_a_job_has_its_units():
    (job,) = jobs.parse([{**FULL, "rate": "20M", "nice": 5, "delay": 60}])
    found = jobs.units([job], "/usr/local/lib/holdfast/programs/holdfast-backup", "/srv")
    unit = "/etc/systemd/system/holdfast-backup-full"
    assert list(found) == [f"{unit}.service", f"{unit}.timer"]
    service, timer = found[f"{unit}.service"], found[f"{unit}.timer"]
    assert "ExecStart=/usr/bin/python3 -I /usr/local/lib/holdfast/programs/holdfast-backup run full\n" in service
    assert "IOWriteBandwidthMax=/srv 20971520\n" in service and "Nice=5\n" in service
    assert "OnCalendar=Sun 01:30\n" in timer and "Persistent=yes\n" in timer and "RandomizedDelaySec=60\n" in timer


def test_a_job_is_written_as_it_is_read():
    (job,) = jobs.parse([FULL])
    written = json.loads(jobs.dump([job], {"full": 1.0}))["jobs"]["full"]
    assert written.pop("since") == 1.0
    assert jobs.parse_one(written) == job


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"name": "Full backup"}, "name 'Full backup'"),
        ({"name": "../x"}, "name"),
        ({"kind": "tar"}, "kind is 'tar'"),
        ({"calendar": "every night"}, "calendar 'every night' is no"),
        ({"calendar": None}, "calendar is None"),
        ({"where": "node1"}, "where is 'node1'"),
        ({"nice": 20}, "nice is 20"),
        ({"io_priority": "high"}, "io_priority is 'high'"),
        ({"rate": "fast"}, "rate is 'fast'"),
        ({"persistent": "yes"}, "persistent is 'yes'"),
        ({"options": {}}, "options need type"),
        ({"options": {"type": "whole"}}, "options.type is 'whole'"),
        ({"options": {"type": "full", "sections": ["full"]}}, "sections are unknown to pgbackrest"),
        ({"kind": "logical", "options": {"sections": ["half"]}}, "has 'half'"),
        ({"kind": "logical", "options": {"parallel": 0}}, "options.parallel is 0"),
        ({"kind": "events", "options": {"schema": "events"}}, "options need database"),
        ({"kind": "events", "options": {"database": 7}}, "options.database is 7; allowed is a text"),
        ({"kind": "events", "options": {"database": "a", "kind": "kafka"}}, "options.kind is 'kafka'"),
        ({"kind": "prune", "options": {"engines": []}}, "list of texts"),
        ({"when": "now"}, "when is unknown"),
    ],
)
def test_what_is_no_job_is_refused(change, word):
    with pytest.raises(Refusal, match=word):
        jobs.parse([{**FULL, **change}])


def test_two_jobs_of_one_name_are_refused():
    with pytest.raises(Refusal, match="two jobs are called full"):
        jobs.parse([FULL, {**FULL, "calendar": "daily"}])
