"""The primary of a replica is replaced in the line that Patroni wrote, and nothing else is."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.follow import FollowError, pointed_at

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
    with pytest.raises(FollowError):
        pointed_at(text, "192.0.2.11", 5432)
