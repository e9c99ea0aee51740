# SPDX-License-Identifier: Apache-2.0
"""What prevents taking a standalone PostgreSQL into a cluster."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.standalone import (
    ACCEPTABLE,
    NOT_LOWER,
    Listed,
    Server,
    Target,
    parse_clusters,
    parse_control,
    problems,
    with_block,
)
from hypothesis import given
from hypothesis import strategies as st

CERTIFICATE = "/etc/ssl/holdfast/standalone.pem"
SETTINGS = {
    **dict.fromkeys(NOT_LOWER, "10"),
    "hba_file": "/etc/postgresql/17/main/pg_hba.conf",
    "listen_addresses": "*",
    "password_encryption": "scram-sha-256",
    "shared_preload_libraries": "",
    "ssl": "on",
    "ssl_cert_file": "/etc/ssl/certs/ssl-cert-snakeoil.pem",
    "wal_level": "replica",
}
SERVER = Server("17", False, SETTINGS)
TARGET = Target("17", {"max_connections": "200"}, "2.41")


def found(server: Server, *accepted: str) -> str:
    return "; ".join(problems(server, TARGET, accepted, CERTIFICATE))


def with_settings(**settings: str) -> Server:
    return replace(SERVER, settings={**SETTINGS, **settings})


def test_a_plain_debian_server_that_listens_can_be_adopted() -> None:
    assert found(SERVER) == ""
    assert found(with_settings(ssl_cert_file=CERTIFICATE)) == ""


@pytest.mark.parametrize(
    ("server", "text"),
    [
        (replace(SERVER, version="15"), "it is PostgreSQL 15, allowed is 17"),
        (replace(SERVER, replica=True), "it is a replica"),
        (replace(SERVER, tablespaces=("fast",)), "tablespaces fast"),
        (with_settings(listen_addresses="localhost"), "listen_addresses is 'localhost'"),
        (with_settings(wal_level="minimal"), "wal_level is minimal"),
        (with_settings(ssl="off"), "ssl is off"),
        (with_settings(ssl_cert_file="/etc/own.pem"), "may trust its certificate /etc/own.pem"),
        (with_settings(password_encryption="md5"), "password_encryption is md5"),
        (with_settings(max_connections="500"), "max_connections is 500 there and 200 in the cluster"),
        (with_settings(shared_preload_libraries="timescaledb, pg_cron"), "has pg_cron, timescaledb"),
        (replace(SERVER, replicator=""), "has a user replicator already"),
        (replace(SERVER, unlogged={"shop": 2}), "there are 2 in shop"),
        (replace(SERVER, altered=("work_mem",)), "ALTER SYSTEM has set work_mem"),
        (replace(SERVER, md5=("old",)), "the passwords of old are md5"),
        (replace(SERVER, slots=("cdc",)), "the replication slots cdc"),
        (replace(SERVER, collations={"shop": "2.36"}), "the databases shop sort by another version"),
    ],
)
def test_what_stands_against_it_is_named_with_its_remedy(server: Server, text: str) -> None:
    assert text in found(server)


def test_losses_can_be_accepted_and_nothing_else() -> None:
    lossy = replace(
        with_settings(ssl_cert_file="/etc/own.pem"),
        unlogged={"shop": 2},
        altered=("work_mem",),
        md5=("old",),
        slots=("cdc",),
        collations={"shop": "2.36"},
    )
    assert len(problems(lossy, TARGET, (), CERTIFICATE)) == len(ACCEPTABLE)
    assert found(lossy, *ACCEPTABLE) == ""
    assert "PostgreSQL 15" in found(replace(lossy, version="15"), *ACCEPTABLE)


def test_our_own_user_of_an_earlier_run_is_no_stranger() -> None:
    assert found(replace(SERVER, replicator="holdfast.persistence")) == ""


def test_debian_s_list_is_read() -> None:
    text = (
        "17  main 5432 online postgres /var/lib/postgresql/17/main /var/log/postgresql/17.log\n"
        "15 old 5433 down,recovery postgres /d /l\n"
    )
    assert parse_clusters(text) == (
        Listed("17", "main", 5432, "online", "/var/lib/postgresql/17/main"),
        Listed("15", "old", 5433, "down,recovery", "/d"),
    )


def test_the_end_of_wal_is_read() -> None:
    text = "Database cluster state:               shut down\nLatest checkpoint location:           0/3000060\n"
    assert parse_control(text) == ("shut down", "0/3000060")
    assert parse_control("") == ("", "")


@given(st.lists(st.text("ab# \n", max_size=20), max_size=3), st.text("ab#\n", max_size=40))
def test_our_lines_stand_first_once_whatever_was_there(lines: list[str], text: str) -> None:
    lines = [line.replace("\n", "") for line in lines]
    once = with_block(text, lines)
    assert with_block(once, lines) == once
    assert once.endswith(text)
    assert once.splitlines()[1 : 1 + len(lines)] == lines
