# SPDX-License-Identifier: Apache-2.0
"""Configuration text, live settings, and what lies between them."""

from __future__ import annotations

import re
import shlex

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host import config
from hypothesis import given
from hypothesis import strategies as st

GIB = 1 << 30
names = st.from_regex(r"[a-z][a-z-]{2,20}[a-z]", fullmatch=True).filter(lambda name: name not in config.REPEATABLE)
values = st.text(st.characters(min_codepoint=32, max_codepoint=122), max_size=30)


def test_parse_reads_words_quotes_and_comments():
    text = '# a comment\n\nmaxmemory 2gb\n  Bind  127.0.0.1   ::1\nlogfile ""\ntls-protocols "TLSv1.2 TLSv1.3"\n'
    assert config.parse_config(text) == {
        "maxmemory": "2gb",
        "bind": "127.0.0.1 ::1",
        "logfile": "",
        "tls-protocols": "TLSv1.2 TLSv1.3",
    }


def test_later_lines_win_but_save_points_add_up_until_the_empty_one():
    text = "port 1\nport 2\nsave 900 1\nsave 300 10\n"
    assert config.parse_config(text) == {"port": "2", "save": "900 1 300 10"}
    assert config.parse_config(text + 'save ""\nsave 60 5\n')["save"] == "60 5"


def test_an_open_quote_names_file_and_line():
    with pytest.raises(Refusal, match=r"x.conf, line 2: cannot read 'dir \"/a'"):
        config.parse_config('port 0\ndir "/a\n', "x.conf")


@given(st.dictionaries(names, values))
def test_what_is_rendered_is_read_back(settings):
    text = config.instance_text("", 7001, settings)
    parsed = config.parse_config(text)
    assert {name: value.split() for name, value in parsed.items()} == {
        name: value.split() for name, value in settings.items()
    }


@pytest.mark.parametrize(
    ("value", "line"),
    [(True, "x yes"), (False, "x no"), (3, "x 3"), (None, 'x ""'), (["a", 1], "x a 1"), ('a"b', 'x "a\\"b"')],
)
def test_values_of_variables_become_values_of_the_server(value, line):
    assert config.render_setting("x", value) == line
    assert shlex.split(line)[0] == "x"


def test_save_of_an_instance_replaces_the_shared_one():
    text = config.instance_text("save 900 1\nport {port}\nbus {bus_port}", 7002, {"save": "60 1"})
    assert config.parse_config(text) == {"save": "60 1", "port": "7002", "bus": "17002"}


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2gb", 2 * GIB),
        ("1k", 1000),
        ("1KB", 1024),
        ("7", 7),
        ("5m", 5 * 10**6),
        ("10%", None),
        ("yes", None),
        ("", None),
    ],
)
def test_sizes(text, size):
    assert config.parse_size(text) == size


@pytest.mark.parametrize(
    ("name", "wished", "live", "expected"),
    [
        ("maxmemory", "2gb", "2147483648", True),
        ("maxmemory", "2gb", "2147483647", False),
        ("appendonly", "YES", "yes", True),
        ("dir", "/A", "/a", False),
        ("save", "900 1 300 10", "900 1 300 10", True),
        ("save", "", "", True),
        ("save", "", "900 1", False),
        ("client-output-buffer-limit", "replica 512mb 1mb 60", "normal 0 0 0 slave 536870912 1048576 60", True),
        ("client-output-buffer-limit", "replica 512mb 1mb 61", "normal 0 0 0 slave 536870912 1048576 60", False),
        ("notify-keyspace-events", "KEA", "AKE", True),
        ("notify-keyspace-events", "Kg$lshzxetd", "AK", True),
        ("notify-keyspace-events", "KEA", "K", False),
        ("unixsocketperm", "700", "700", True),
    ],
)
def test_same_value_in_other_words(name, wished, live, expected):
    assert config.same(name, wished, live) is expected


def test_plan_tells_live_from_restart():
    live = {"maxmemory": "1", "databases": "16", "hz": "50", "save": "900 1"}
    plan = config.make_plan(
        {"maxmemory": "2", "databases": "1", "save": "900 1"}, live, {"maxmemory": "1", "hz": "50"}, ["appenddirname"]
    )
    assert plan.live == {"maxmemory": "2"}
    assert plan.restart == ("appenddirname", "databases", "hz")
    assert plan.removed == ("appenddirname", "hz")


def test_a_removed_setting_that_never_took_effect_needs_no_restart():
    plan = config.make_plan({}, {"io-threads": "1"}, {"io-threads": "2"})
    assert (plan.live, plan.restart, plan.removed) == ({}, (), ())


def test_a_removed_setting_that_comes_back_needs_no_restart():
    plan = config.make_plan({"hz": "20"}, {"hz": "50"}, {}, ["hz"])
    assert (plan.live, plan.restart, plan.removed) == ({"hz": "20"}, (), ())


@pytest.mark.parametrize(("version", "restart"), [("8.0.1", True), ("8.1.1", True), ("9.1.2", False)])
def test_some_settings_are_live_in_newer_servers_only(version, restart):
    plan = config.make_plan({"io-threads": "2"}, {"io-threads": "1"}, {}, (), version)
    assert (plan.restart == ("io-threads",)) is restart
    assert ("io-threads" in plan.live) is not restart


@given(st.dictionaries(names, values), st.dictionaries(names, values))
def test_a_plan_is_empty_exactly_when_nothing_differs(wished, live):
    plan = config.make_plan(wished, live | wished, wished)
    assert not plan.live
    assert not plan.restart
    changed = {name: value + "x" for name, value in wished.items()}
    again = config.make_plan(changed, wished, wished)
    assert {*again.live, *again.restart} == set(wished)


@pytest.mark.parametrize(
    ("version", "text"),
    [
        ("8.1.1", "sigterm nosave\nuser x +ping"),
        ("9.0.0", "sigterm nosave failover\nuser x +ping +cluster|syncslots"),
        ("10.2", None),
    ],
)
def test_words_for_later_versions_alone(version, text):
    found = config.for_version(
        "sigterm nosave{since 9.0: failover}\nuser x +ping{since 9.0: +cluster|syncslots}", version
    )
    assert found == (text or config.for_version(found, version))
    assert "{" not in found


def test_words_for_later_versions_are_left_out_where_nothing_is_known():
    assert config.for_version("a{since 9.0: b} {port}", "") == "a {port}"


def test_unknown_settings_come_with_the_nearest_name():
    assert config.unknown_settings({"maxmemry": "1", "qqq": "1", "port": "1"}, {"maxmemory": "", "port": "0"}) == {
        "maxmemry": "maxmemory",
        "qqq": "",
    }


def test_memory_is_shared_equally_in_whole_grains():
    shares = config.share_memory(10 * GIB, 0.5, {7001: None, 7002: None, 7003: GIB})
    assert shares == {7001: 2 * GIB, 7002: 2 * GIB, 7003: GIB}


@given(
    total=st.integers(GIB, 1 << 42),
    fraction=st.floats(0.1, 1),
    open_instances=st.integers(1, 6),
)
def test_shares_never_exceed_the_fraction(total, fraction, open_instances):
    fixed = dict.fromkeys(range(7001, 7001 + open_instances))
    try:
        shares = config.share_memory(total, fraction, fixed)
    except Refusal:
        assert total * fraction / open_instances < 2 * (16 << 20)
        return
    assert sum(shares.values()) <= total * fraction
    assert set(map(type, shares.values())) == {int}


def test_more_memory_than_the_host_has_is_refused():
    with pytest.raises(Refusal, match="the host has 1073741824"):
        config.share_memory(GIB, 0.5, {7001: GIB, 7002: 1})
    with pytest.raises(Refusal, match="valkey_memory_fraction: 0 bytes are left for the 1 instances"):
        config.share_memory(GIB, 0.5, {7001: GIB, 7002: None})


@pytest.mark.parametrize("ports", [[7001, 7001], [7001, 17001], [80], [55536], [2000, 12000]])
def test_ports_that_cannot_be(ports):
    with pytest.raises(Refusal, match=re.escape("valkey_instances: port ")):
        config.check_ports(ports)
    config.check_ports([7001, 7002, 55535])


def test_instances_that_would_share_files_are_refused():
    config.check_apart({1: {"dir": "/a", "unixsocket": "/x"}, 2: {"dir": "/b", "unixsocket": "/y"}})
    with pytest.raises(Refusal, match=r"several instances have dir /a\. Put \{port\}"):
        config.check_apart({1: {"dir": "/a", "unixsocket": "/x"}, 2: {"dir": "/a", "unixsocket": "/y"}})


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("ERR CONFIG SET failed (possibly related to argument 'databases') - can't set immutable config", "databases"),
        ("ERR CONFIG SET failed (possibly related to argument 'dir') - can't set protected config", "dir"),
        ("ERR CONFIG SET failed (possibly related to argument 'hz') - argument couldn't be parsed", None),
    ],
)
def test_what_a_server_refuses_for_ever(message, name):
    assert config.refused_for_ever(message) == name


def test_acl_is_shown_without_hashes_and_compared_by_user():
    old = f"user a on #{'0' * 64} ~*\nuser b on #{'1' * 64}\nuser off\n"
    new = f"user a on #{'2' * 64} ~*\nuser b on #{'1' * 64}\nuser c off\n"
    assert config.masked_acl(old) == "user a on #(hash) ~*\nuser b on #(hash)\nuser off\n"
    assert config.changed_users(old, new) == ["a", "c", "off"]
