# SPDX-License-Identifier: Apache-2.0
"""An authority is made only by a run that has looked at the hosts."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from ansible_collections.holdfast.persistence.plugins.action.tls_files import collect
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def params(folder: Path) -> dict[str, object]:
    """Options of the action for a host with one certificate."""
    element = {"service": "etcd", "common_name": "node1", "names": ["node1"], "usages": ["server"], "owner": "root"}
    return {
        "provider": "internal",
        "folder": str(folder),
        "host": "node1",
        "organization": "orders",
        "certificates": [element],
        "clients": [],
        "days": 365,
        "renew_days": 30,
        "ca_days": 3650,
    }


def test_a_folder_that_is_not_the_clusters_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "tls"
    with pytest.raises(
        Refusals, match=r"tls/ca.crt is missing, and only site.yml makes an authority.*bring the folder"
    ):
        collect(params(folder), check_mode=False, now=NOW)
    assert not folder.exists()


def test_a_new_cluster_gets_one_and_the_next_run_uses_it(tmp_path: Path) -> None:
    made = collect(params(tmp_path / "tls"), check_mode=False, now=NOW, new_authority=True)
    again = collect(params(tmp_path / "tls"), check_mode=False, now=NOW)
    assert made.ca is not None
    assert (again.ca, again.issued) == (made.ca, {})


def test_check_mode_says_what_would_be_issued_and_makes_nothing(tmp_path: Path) -> None:
    found = collect(params(tmp_path / "tls"), check_mode=True, now=NOW)
    assert set(found.issued) == {"ca", "etcd"}
    assert not (tmp_path / "tls").exists()
