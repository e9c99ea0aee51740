# SPDX-License-Identifier: Apache-2.0
"""Which driver is used, and what becomes of a server that does not answer."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql import reader
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


class Driver:
    """A driver whose servers refuse."""

    class Error(Exception):
        """The driver's own error."""

    def connect(self, **_parameters):
        raise self.Error("connection to server failed:\n\tfe_sendauth: no password supplied\n")


@pytest.mark.parametrize(
    ("present", "chosen"),
    [(("psycopg", "psycopg2"), "psycopg"), (("psycopg2",), "psycopg2"), (("psycopg",), "psycopg")],
)
def test_the_newest_driver_is_taken(monkeypatch, present, chosen):
    def load(name):
        if name not in present:
            raise ImportError(name)
        return name

    monkeypatch.setattr(reader.importlib, "import_module", load)
    assert reader.find_driver() == chosen


def test_no_driver_is_told_with_the_package(monkeypatch):
    def load(name):
        raise ImportError(name)

    monkeypatch.setattr(reader.importlib, "import_module", load)
    with pytest.raises(Refusal, match="python3-psycopg2"):
        reader.find_driver()


def test_a_server_that_does_not_answer_carries_the_error_in_one_line():
    servers = reader.read_servers([reader.Target("node1", "198.18.7.11")], {}, Driver())
    assert [(server.name, server.address) for server in servers] == [("node1", "198.18.7.11:5432")]
    assert servers[0].error == "connection to server failed: fe_sendauth: no password supplied"


def test_nobody_to_ask_is_nothing_read():
    assert reader.read_servers([], {}, Driver()) == []
