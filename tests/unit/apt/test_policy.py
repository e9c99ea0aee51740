# SPDX-License-Identifier: Apache-2.0
"""What would be upgraded, and what runs an old program."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.apt.policy import (
    Package,
    Process,
    Program,
    newer,
    outdated,
    parse_boot_time,
    parse_policy,
    parse_process,
)

POLICY = """etcd-server:
  Installed: 3.5.16-4
  Candidate: 3.5.16-4+x1
  Version table:
     3.5.16-4+x1 500
        500 file:/srv/newer ./ Packages
 *** 3.5.16-4 500
        100 /var/lib/dpkg/status
libpq5:amd64:
  Installed: 17.12-0
  Candidate: 17.12-0
  Version table:
 *** 17.12-0 500
keepalived:
  Installed: (none)
  Candidate: 1:2.3.3-1
  Version table:
     1:2.3.3-1 500
"""


def test_policy():
    found = parse_policy(POLICY)
    assert found == [Package("etcd-server", "3.5.16-4", "3.5.16-4+x1"), Package("libpq5", "17.12-0", "17.12-0")]
    assert newer(found) == ["etcd-server 3.5.16-4 -> 3.5.16-4+x1"]


def test_a_package_that_apt_does_not_know_is_left_alone():
    assert newer(parse_policy("own:\n  Installed: 1\n  Candidate: (none)\n")) == []


@pytest.mark.parametrize(
    ("process", "unpacked", "lines"),
    [
        (None, 0.0, 0),
        (Process("/usr/bin/etcd", False, 100.0), 200.0, 0),
        (Process("/usr/bin/etcd", True, 100.0), 50.0, 1),
        (Process("/usr/bin/python3.13", False, 100.0), 200.0, 1),
        (Process("/usr/bin/python3.13", False, 100.0), 50.0, 0),
    ],
)
def test_outdated(process, unpacked, lines):
    assert len(outdated(Program("some.service", ("some",), process, {"some": unpacked}))) == lines


def test_when_a_process_started():
    stat = "812 (a) b) c) S " + " ".join(str(number) for number in range(4, 53))
    assert parse_process(stat, 1000.0, 100) == 1000.0 + 22 / 100
    assert parse_boot_time("cpu 1 2\nbtime 1764130000\n") == 1764130000.0
    with pytest.raises(ValueError, match="btime"):
        parse_boot_time("cpu 1 2\n")
    with pytest.raises(ValueError, match="stat"):
        parse_process("812 (a) S 1", 0.0, 100)
