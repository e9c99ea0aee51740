# SPDX-License-Identifier: Apache-2.0
"""Rules over the replication of PostgreSQL: each rule is quiet on a healthy cluster and speaks when it is broken."""

from __future__ import annotations

from dataclasses import replace

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.cluster import Cluster, Member
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.replication import (
    REMEDIES,
    Declared,
    Limits,
    check,
    find_primary,
    lag_of,
    patroni_silent,
    summarize,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.state import (
    Archiver,
    PatroniView,
    Server,
    Slot,
    StandbyNames,
    WalReceiver,
    WalSender,
    mark_stalled,
    normalize_mode,
    parse_lsn,
    parse_standby_names,
    patroni_from_rest,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from hypothesis import given
from hypothesis import strategies as st

LSN = 0x3_00A0_0000
NAMES = ("node1", "node2", "node3")


def sender(name, **changes):
    """A WAL sender that has nothing left to do."""
    return replace(WalSender(name, "198.18.7.12", "streaming", "quorum", LSN, 0.0), **changes)


def primary(**changes):
    """The primary node1 with two quorum standbys."""
    values = {
        "timeline": 4,
        "lsn": LSN,
        "synchronous_standby_names": 'ANY 1 ("node2","node3")',
        "senders": (sender("node2"), sender("node3")),
        "slots": (Slot("node2", "physical", True, LSN, "reserved"), Slot("node3", "physical", True, LSN, "reserved")),
        "archiver": Archiver(
            enabled=True, last_archived=2000.0, failed=3, last_failed=1000.0, last_failed_wal="0" * 24
        ),
        "xid_ages": {"postgres": 700, "orderdb": 700},
        "multixact_ages": {"postgres": 0, "orderdb": 0},
    }
    return Server("node1", "198.18.7.11:5432", **{**values, **changes})


def replica(name="node2", **changes):
    """A replica that has replayed all."""
    values = {
        "in_recovery": True,
        "timeline": 4,
        "lsn": LSN,
        "received_lsn": LSN,
        "receiver": WalReceiver("streaming", 4, "198.18.7.11:5432"),
        "replay_age_seconds": 5000.0,
    }
    return Server(name, f"{name}:5432", **{**values, **changes})


def member(name, **changes):
    """A member as Patroni shows it: node1 leads."""
    role, state = ("leader", "running") if name == "node1" else ("quorum_standby", "streaming")
    return replace(Member(name, role, state, host="198.18.7.11", port=5432, timeline=4), **changes)


def view(*members, paused=False, mode="quorum", count=1):
    """Patroni's view of the members; of the healthy three without any given."""
    return PatroniView(Cluster(members or tuple(member(name) for name in NAMES), paused=paused), mode, count)


HEALTHY = [primary(), replica("node2"), replica("node3")]
DECLARED = Declared(NAMES, "quorum")


def judge(servers=None, patroni=None, declared=DECLARED, limits=None):
    """The findings as (rule, severity, where)."""
    findings = check(HEALTHY if servers is None else servers, patroni or view(), declared, limits)
    return [(finding.rule, finding.severity, finding.where) for finding in findings]


def test_nothing_is_found_in_a_healthy_cluster():
    assert check(HEALTHY, view(), DECLARED) == []


def test_a_healthy_pair_without_patroni_has_no_findings():
    pair = [primary(synchronous_standby_names="", senders=(sender("node2"),)), replica("node2")]
    assert check(pair, None, Declared()) == []


SERVERS = {
    "a server that is down": (
        [primary(), replica("node2"), Server("node3", "node3:5432", error="connection refused")],
        [("server_reachable", "critical", "node3")],
    ),
    "a replica that nobody feeds": (
        [primary(senders=(sender("node2"),)), replica("node2"), replica("node3", receiver=None)],
        [("replica_streaming", "critical", "node3")],
    ),
    "a replica that catches up": (
        [primary(senders=(sender("node2"), sender("node3", state="catchup"))), *HEALTHY[1:]],
        [("replica_streaming", "warning", "node3")],
    ),
    "another timeline": (
        [primary(), replica("node2"), replica("node3", receiver=WalReceiver("streaming", 3, "198.18.7.11:5432"))],
        [("same_timeline", "critical", "node3")],
    ),
    "bytes behind": (
        [primary(), replica("node2"), replica("node3", lsn=LSN - 20 * 2**20, received_lsn=LSN - 20 * 2**20)],
        [("lag_bytes", "warning", "node3")],
    ),
    "many bytes behind": (
        [primary(), replica("node2"), replica("node3", lsn=LSN - 300 * 2**20, received_lsn=LSN - 300 * 2**20)],
        [("lag_bytes", "critical", "node3")],
    ),
    "seconds behind": (
        [
            primary(senders=(sender("node2", replay_lag_seconds=11.0), sender("node3"))),
            replica("node2", lsn=LSN - 1),
            replica("node3"),
        ],
        [("lag_seconds", "warning", "node2")],
    ),
    "replay paused with WAL waiting": (
        [primary(), replica("node2", lsn=LSN - 1, replay_paused=True), replica("node3")],
        [("lag_seconds", "critical", "node2"), ("replay_paused", "warning", "node2")],
    ),
    "replay stuck": (
        [primary(), replica("node2", lsn=LSN - 1, replay_stalled=True, replay_age_seconds=12.0), replica("node3")],
        [("lag_seconds", "warning", "node2")],
    ),
    "commits that hang": (
        [
            primary(
                synchronous_standby_names="ANY 2 (node2,node3)",
                senders=(sender("node2"), sender("node3", state="backup")),
            ),
            *HEALTHY[1:],
        ],
        [("commits_can_end", "critical", "node1"), ("replica_streaming", "warning", "node3")],
    ),
    "commits that wait for nobody": (
        [primary(synchronous_standby_names=""), *HEALTHY[1:]],
        [("synchronous_standbys", "critical", "node1")],
    ),
    "priority instead of quorum": (
        [primary(synchronous_standby_names="FIRST 1 (node2,node3)"), *HEALTHY[1:]],
        [("synchronous_standbys", "critical", "node1")],
    ),
    "voters that Patroni does not have": (
        [primary(synchronous_standby_names="ANY 1 (node2)"), *HEALTHY[1:]],
        [("synchronous_standbys", "warning", "node1")],
    ),
    "commits acknowledged too early": (
        [primary(synchronous_commit="local"), *HEALTHY[1:]],
        [("synchronous_commit", "warning", "node1")],
    ),
    "an unused slot": (
        [primary(slots=(Slot("old", "logical", False, LSN - 2**30, "extended"),)), *HEALTHY[1:]],
        [("slot_active", "warning", "node1, slot old"), ("slot_retained_wal", "warning", "node1, slot old")],
    ),
    "a lost slot": (
        [primary(slots=(Slot("node2", "physical", True, None, "lost"),)), *HEALTHY[1:]],
        [("slot_usable", "critical", "node1, slot node2")],
    ),
    "an archiver that fails": (
        [
            primary(archiver=Archiver(True, 1, last_failed=3000.0, last_failed_wal="0" * 24, last_archived=2000.0)),
            *HEALTHY[1:],
        ],
        [("archiving", "critical", "node1")],
    ),
    "an archiver that never succeeded": (
        [primary(archiver=Archiver(True, failed=1, last_failed=3000.0, last_failed_wal="0" * 24)), *HEALTHY[1:]],
        [("archiving", "critical", "node1")],
    ),
    "an archiver that is slow": (
        [primary(archiver=Archiver(True, last_archived=1.0, backlog=16)), *HEALTHY[1:]],
        [("archive_backlog", "warning", "node1")],
    ),
    "no archiver": ([primary(archiver=Archiver(False)), *HEALTHY[1:]], [("archiving_off", "info", "node1")]),
    "old transactions": (
        [primary(xid_ages={"orderdb": 1_500_000_000}, multixact_ages={"orderdb": 500_000_000}), *HEALTHY[1:]],
        [("xid_age", "critical", "node1, database orderdb"), ("multixact_age", "warning", "node1, database orderdb")],
    ),
    "an old prepared transaction": (
        [primary(prepared_seconds=301.5), *HEALTHY[1:]],
        [("prepared_transactions", "warning", "node1")],
    ),
    "a setting that waits": (
        [primary(), replica("node2", pending_restart=("max_connections",)), replica("node3")],
        [("pending_restart", "warning", "node2")],
    ),
    "a setting that says nothing to a primary": (
        [primary(pending_restart=("max_connections", "recovery_target_timeline")), *HEALTHY[1:]],
        [("pending_restart", "warning", "node1")],
    ),
    "only settings that say nothing to a primary": (
        [primary(pending_restart=("recovery_target", "recovery_target_timeline")), *HEALTHY[1:]],
        [],
    ),
    "the same on a replica": (
        [primary(), replica("node2", pending_restart=("recovery_target",)), replica("node3")],
        [("pending_restart", "warning", "node2")],
    ),
    "bad pages": (
        [primary(), replica("node2", checksum_failures={"orderdb": 2}), replica("node3")],
        [("data_checksums", "critical", "node2, database orderdb")],
    ),
}


@pytest.mark.parametrize(("servers", "expected"), SERVERS.values(), ids=SERVERS.keys())
def test_servers_tell(servers, expected):
    assert judge(servers) == expected


VIEWS = {
    "paused": (view(paused=True), [("automatic_failover", "warning", "Patroni")]),
    "a pending restart": (
        view(member("node1"), member("node2", pending_restart=True), member("node3")),
        [("pending_restart", "warning", "node2")],
    ),
    "a broken member": (
        view(member("node1"), member("node2", state="start failed"), member("node3")),
        [("member_state", "critical", "node2")],
    ),
    "a member on its way": (
        view(member("node1"), member("node2"), member("node3", state="creating replica")),
        [("member_state", "warning", "node3")],
    ),
    "asynchronous although declared quorum": (
        view(mode="off"),
        [("synchronous_mode", "critical", "Patroni"), ("synchronous_standbys", "warning", "node1")],
    ),
    "too few to wait for": (view(count=2), [("synchronous_standbys", "warning", "node1")]),
    "two leaders": (
        view(member("node1"), member("node2", role="leader", state="running"), member("node3")),
        [("one_leader", "critical", "Patroni"), ("synchronous_standbys", "warning", "node1")],
    ),
    "another leader": (
        view(member("node1", role="replica"), member("node2", role="leader", state="running"), member("node3")),
        [("split_brain", "critical", "node1"), ("synchronous_standbys", "warning", "node1")],
    ),
}


@pytest.mark.parametrize(("patroni", "expected"), VIEWS.values(), ids=VIEWS.keys())
def test_patroni_tells(patroni, expected):
    assert judge(patroni=patroni) == expected


def test_a_declared_member_that_patroni_does_not_know_is_found():
    assert judge(declared=Declared((*NAMES, "node4"))) == [("member_known", "critical", "node4")]


def test_a_member_that_nobody_declared_is_found():
    assert judge(declared=Declared(("node1", "node2"))) == [("member_undeclared", "warning", "node3")]


def test_the_timeline_of_patroni_counts_while_nothing_is_received():
    servers = [primary(), replica("node2"), replica("node3", receiver=None)]
    patroni = view(member("node1"), member("node2"), member("node3", timeline=3))
    assert judge(servers, patroni) == [("same_timeline", "critical", "node3")]


def test_a_member_that_only_patroni_knows_must_stream():
    patroni = view(*view().cluster.members, member("node4", role="replica"))
    assert ("replica_streaming", "critical", "node4") in judge(patroni=patroni, declared=Declared())


def test_two_primaries_are_a_split_brain_and_the_leader_is_judged():
    servers = [primary(), primary(synchronous_standby_names=""), replica("node3")]
    servers[1] = replace(servers[1], name="node2", senders=(), slots=())
    assert judge(servers)[0] == ("split_brain", "critical", "cluster")
    assert find_primary(servers, view()).name == "node1"


def test_no_primary_is_found():
    servers = [replica(name) for name in NAMES]
    patroni = view(*(member(name, role="replica", state="running") for name in NAMES))
    assert judge(servers, patroni) == [("one_primary", "critical", "cluster"), ("one_leader", "critical", "Patroni")]


def test_a_standby_cluster_needs_no_server_that_takes_writes():
    leader = replace(primary(synchronous_standby_names=""), in_recovery=True)
    patroni = view(member("node1", role="standby_leader", state="streaming"), *view().cluster.members[1:], mode="off")
    assert check([leader, *HEALTHY[1:]], patroni, Declared(NAMES)) == []


def test_a_replica_may_be_fed_by_another_replica():
    servers = [primary(senders=(sender("node2"),)), replica("node2", senders=(sender("node3"),)), replica("node3")]
    assert judge(servers) == []


def test_the_gravest_come_first():
    servers = [
        primary(archiver=Archiver(False)),
        replica("node2", replay_paused=True),
        Server("node3", "x", error="no"),
    ]
    assert [severity for _rule, severity, _where in judge(servers)] == ["critical", "warning", "info"]


def test_silent_urls_are_a_warning_only_while_another_answers():
    errors = {"https://a:8008": "no answer"}
    assert [finding.severity for finding in patroni_silent(errors, answered=True)] == ["warning"]
    assert [finding.severity for finding in patroni_silent(errors, answered=False)] == ["critical"]


def test_every_remedy_is_used_and_is_a_sentence():
    assert all(remedy.endswith(".") and remedy[0].isupper() for remedy in REMEDIES.values())
    broken = {rule for _servers, expected in SERVERS.values() for rule, _severity, _where in expected}
    broken |= {rule for _view, expected in VIEWS.values() for rule, _severity, _where in expected}
    assert set(REMEDIES) - broken == {
        "patroni_answers",
        "one_primary",
        "member_known",
        "member_undeclared",
        "rewind_rights",
    }


@given(st.integers(0, 2**64 - 1))
def test_lsns_are_numbers(value):
    assert parse_lsn(f"{value >> 32:X}/{value & 0xFFFFFFFF:X}") == value


@pytest.mark.parametrize("text", ["", "16", "16/", "/16", "16/B374D848F", "g/1"])
def test_odd_lsns_are_refused(text):
    with pytest.raises(Refusal, match="is not an LSN"):
        parse_lsn(text)


def quote(name):
    """Quote a name as PostgreSQL does."""
    return '"' + name.replace('"', '""') + '"'


@given(
    st.sampled_from(["ANY", "FIRST", "any", "first"]),
    st.integers(1, 99),
    st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1),
)
def test_lists_of_standbys_are_read_back(method, count, names):
    text = f"{method} {count} ({', '.join(map(quote, names))})"
    assert parse_standby_names(text) == StandbyNames(method.lower(), count, tuple(names))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", StandbyNames()),
        ("node2", StandbyNames("first", 1, ("node2",))),
        ('"node-2"', StandbyNames("first", 1, ("node-2",))),
        ("node2, node3", StandbyNames("first", 1, ("node2", "node3"))),
        ("2 (node2,node3)", StandbyNames("first", 2, ("node2", "node3"))),
        ("*", StandbyNames("first", 1, ("*",))),
        ("ANY 1(node2)", StandbyNames("any", 1, ("node2",))),
    ],
)
def test_other_forms_of_standby_names(text, expected):
    assert parse_standby_names(text) == expected


@pytest.mark.parametrize("text", ["ANY 1 ()", "a b", "ANY (node2)", '"open'])
def test_odd_standby_names_are_refused(text):
    with pytest.raises(Refusal):
        parse_standby_names(text)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "on"),
        (False, "off"),
        ("on", "on"),
        ("quorum", "quorum"),
        ("off", "off"),
        (None, "off"),
        ("Quorum", "quorum"),
    ],
)
def test_modes_are_normalized(value, expected):
    assert normalize_mode(value) == expected


def test_patroni_is_read_from_its_answers():
    answer = {"members": [{"name": "node1", "role": "leader", "state": "running", "timeline": 4}], "pause": True}
    read = patroni_from_rest(answer, {"synchronous_mode": "quorum", "synchronous_node_count": 2})
    assert (read.cluster.paused, read.synchronous_mode, read.synchronous_node_count) == (True, "quorum", 2)


@given(st.integers(0, 2**33), st.integers(0, 2**33), st.integers(1, 2**30), st.integers(0, 2**30))
def test_lag_is_never_negative_and_severity_grows_with_it(at_primary, at_replica, warning, more):
    servers = [primary(lsn=at_primary, slots=()), replica("node2", lsn=at_replica, received_lsn=at_replica)]
    behind, _seconds = lag_of(servers[0], servers[1], None)
    assert behind == max(0, at_primary - at_replica)
    limits = replace(Limits(), lag_bytes=(warning, warning + more))
    severities = [severity for rule, severity, _where in judge(servers, limits=limits) if rule == "lag_bytes"]
    expected = "critical" if behind >= warning + more else "warning" if behind >= warning else None
    assert severities == ([expected] if expected else [])


@given(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3), st.integers(0, 3))
def test_replay_is_stalled_only_when_it_stands_still_with_work_to_do(lsn, received, later_lsn, later_received):
    first = replica(lsn=lsn, received_lsn=received)
    second = replica(lsn=later_lsn, received_lsn=later_received)
    stalled = mark_stalled([first], [second])[0].replay_stalled
    assert stalled == (received > lsn and later_received > later_lsn and lsn == later_lsn)


def test_a_summary_tells_roles_and_lags():
    servers = [primary(), replica("node2", lsn=LSN - 10), Server("node3", "node3:5432", error="refused")]
    shown = [(line["role"], line["lag_bytes"], line["sync_state"]) for line in summarize(servers, view())]
    assert shown == [("primary", None, None), ("replica", 10, "quorum"), ("unknown", None, None)]


def test_rights_that_pg_rewind_lacks_are_told_where_its_user_asks():
    servers = [primary(rewind_lacks=("pg_stat_file(text, boolean)",)), *HEALTHY[1:]]
    assert judge(servers) == []
    declared = replace(DECLARED, rewinds=True)
    assert judge(servers, declared=declared) == [("rewind_rights", "warning", "node1, the user of pg_rewind")]
    assert judge(declared=declared) == []
