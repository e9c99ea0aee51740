# SPDX-License-Identifier: Apache-2.0
"""The primary of a replica is replaced in the line that Patroni wrote, and nothing else is."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.follow import (
    opened_for,
    passfile_of,
    pointed_at,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

WRITTEN = """hot_standby = 'on'
primary_conninfo = 'dbname=postgres user=replicator passfile=/x host=192.0.2.12 port=5432 sslmode=verify-full'
primary_slot_name = 'node3'
"""


def test_another_primary_takes_the_place_of_the_old_one() -> None:
    assert pointed_at(WRITTEN, "192.0.2.11", 5433) == WRITTEN.replace("192.0.2.12 port=5432", "192.0.2.11 port=5433")


def test_the_same_primary_changes_nothing() -> None:
    assert pointed_at(WRITTEN, "192.0.2.12", 5432) == WRITTEN


def test_ends_of_the_line_and_ipv6_are_understood() -> None:
    assert (
        pointed_at("primary_conninfo = 'host=fd00::1 port=5432'\n", "fd00::2", 5432)
        == "primary_conninfo = 'host=fd00::2 port=5432'\n"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#primary_conninfo = 'host=192.0.2.12 port=5432'\n",
        "primary_conninfo = 'hostaddr=192.0.2.12 port=5432'\n",
        "primary_conninfo = 'service=primary'\nx = 'host=192.0.2.12 port=5432'\n",
    ],
)
def test_a_configuration_without_a_primary_is_an_error(text: str) -> None:
    with pytest.raises(Refusal):
        pointed_at(text, "192.0.2.11", 5432)


def test_the_password_file_is_found() -> None:
    assert passfile_of(WRITTEN) == "/x"
    assert passfile_of("primary_conninfo = 'host=192.0.2.12 port=5432'\npassfile=/y\n") == ""


@pytest.mark.parametrize(
    ("before", "host", "after"),
    [
        ("192.0.2.12:5432:*:replicator:a:b\\:c\n", "192.0.2.11", "192.0.2.11:5433:*:replicator:a:b\\:c\n"),
        ("fd00\\:\\:2:5432:*:replicator:x\n", "fd00::1", "fd00\\:\\:1:5433:*:replicator:x\n"),
        ("", "192.0.2.11", ""),
    ],
)
def test_its_password_is_for_the_new_primary(before: str, host: str, after: str) -> None:
    assert opened_for(before, host, 5433) == after
