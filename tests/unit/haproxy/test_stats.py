# SPDX-License-Identifier: Apache-2.0
"""HAProxy's statistics as data."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.haproxy.stats import parse_stats, routes
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

TEXT = """\
# pxname,svname,scur,status,lastchg,check_status,check_code,addr,last_chk,
read_write,FRONTEND,3,OPEN,,,,,,
read_write_members,node1,3,UP,60,L7OK,200,198.18.7.11:5432,"OK, as Patroni says",
read_write_members,node2,0,DOWN,60,L7STS,503,198.18.7.12:5432,Service Unavailable,
read_write_members,node3,0,UP 1/2,2,L7OK,200,198.18.7.13:5432,,
read_write_members,node4,0,MAINT,2,,,198.18.7.14:5432,,
read_write_members,BACKEND,3,UP,60,,,,,
"""


def test_servers_that_take_connections_are_routed_to():
    stats = parse_stats(TEXT)
    assert routes(stats, "read_write_members") == ["node1", "node3"]
    assert routes(stats, "unknown") == []
    assert stats["frontends"] == {"read_write": {"status": "OPEN", "sessions": 3}}
    assert stats["backends"]["read_write_members"]["status"] == "UP"
    assert stats["backends"]["read_write_members"]["servers"][0] == {
        "name": "node1",
        "status": "UP",
        "up": True,
        "address": "198.18.7.11:5432",
        "sessions": 3,
        "check": "L7OK 200 OK, as Patroni says",
        "seconds_since_change": 60,
    }


@pytest.mark.parametrize("text", ["", "Unknown command\n"])
def test_other_text_is_refused(text):
    with pytest.raises(Refusal, match="not CSV"):
        parse_stats(text)
