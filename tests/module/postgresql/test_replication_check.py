# SPDX-License-Identifier: Apache-2.0
"""The module postgresql_replication_check against a real primary and replica."""

from __future__ import annotations

import json

import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.holdfast.persistence.plugins.modules import postgresql_replication_check

from .conftest import PASSWORD, patroni


@pytest.fixture(name="run")
def _run(cluster, replica, capsys):
    """Run the module; returns its result."""

    def run(**options):
        members = [
            {"name": server.name, "host": "127.0.0.1", "port": server.port} for server in (cluster.primary, replica)
        ]
        arguments = {
            "members": members,
            "login_password": PASSWORD,
            "ca_cert": str(cluster.authority.ca),
            "client_cert": str(cluster.authority.pem),
            "timeout": 30,
            **options,
        }
        with patch_module_args(arguments), pytest.raises(SystemExit):
            postgresql_replication_check.main()
        output = capsys.readouterr().out
        assert PASSWORD not in output.replace(json.dumps(arguments), "")
        return json.loads(output)

    return run


def rules(result):
    """The findings as (rule, severity, where)."""
    return [(finding["rule"], finding["severity"], finding["where"]) for finding in result["findings"]]


def test_nothing_is_wrong_with_a_healthy_pair(run):
    result = run(fail_on="warning")
    assert rules(result) == []
    assert (result["changed"], result["primary"], result["worst"]) == (False, "node1", "")
    assert [(member["name"], member["role"], member["timeline"]) for member in result["members"]] == [
        ("node1", "primary", 1),
        ("node2", "replica", 1),
    ]


def test_check_mode_returns_the_same(run):
    assert rules(run(_ansible_check_mode=True)) == []


def test_patroni_and_servers_agree(run, cluster):
    answers = {
        "/cluster": {
            "members": [
                {"name": "node1", "role": "leader", "state": "running", "timeline": 1},
                {"name": "node2", "role": "replica", "state": "streaming", "timeline": 1},
            ]
        },
        "/config": {"ttl": 20},
    }
    with patroni(cluster.authority, answers) as url:
        assert rules(run(patroni_urls=[url], fail_on="warning")) == []
        silent = "https://127.0.0.1:1"
        assert rules(run(patroni_urls=[silent, url])) == [("patroni_answers", "warning", silent)]
        result = run(patroni_urls=[url], synchronous_mode="quorum", fail_on="none")
        assert rules(result) == [("synchronous_mode", "critical", "Patroni")]
        answers["/cluster"]["members"][1] |= {"timeline": 2, "pending_restart": True, "name": "node3"}
        result = run(patroni_urls=[url])
    assert rules(result)[:2] == [("member_known", "critical", "node2"), ("replica_streaming", "critical", "node3")]
    assert result["failed"]
    assert "node2: member_known" in result["msg"]


def test_synchronous_replication_is_seen(run, cluster):
    primary = cluster.primary
    primary.query("ALTER SYSTEM SET synchronous_standby_names = 'ANY 2 (node2, node3)'")
    primary.query("SELECT pg_reload_conf()")
    primary.wait("EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'quorum')")
    result = run(fail_on="none")
    primary.query("ALTER SYSTEM RESET synchronous_standby_names")
    primary.query("SELECT pg_reload_conf()")
    primary.wait("EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'async')")
    assert rules(result) == [("commits_can_end", "critical", "node1")]
    assert result["members"][1]["sync_state"] == "quorum"


def test_paused_replay_with_work_to_do_is_lag_in_seconds(run, cluster, replica):
    cluster.primary.query("CREATE TABLE IF NOT EXISTS written (at timestamptz)")
    cluster.primary.query("INSERT INTO written VALUES (now())")
    replica.catch_up(cluster.primary)
    replica.query("SELECT pg_wal_replay_pause()")
    replica.wait("pg_get_wal_replay_pause_state() = 'paused'")
    cluster.primary.query("INSERT INTO written VALUES (now())")
    replica.wait("pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn()")
    result = run(fail_on="none", settle=0.2, lag_seconds_warning=0.1, lag_seconds_critical=0.15, lag_bytes_warning=1)
    replica.query("SELECT pg_wal_replay_resume()")
    replica.catch_up(cluster.primary)
    assert rules(result) == [
        ("lag_seconds", "critical", "node2"),
        ("lag_bytes", "warning", "node2"),
        ("replay_paused", "warning", "node2"),
    ]
    assert 0 < result["members"][1]["lag_bytes"] < 2**20
    assert rules(run(fail_on="warning")) == []


def test_replay_that_a_query_holds_back_is_seen_as_stuck(run, cluster, replica):
    """A vacuum that a snapshot on the replica forbids: the primary's replay_lag stands still."""
    primary = cluster.primary
    primary.query("CREATE TABLE IF NOT EXISTS held (id int)")
    primary.query("INSERT INTO held SELECT generate_series(1, 1000)")
    replica.catch_up(primary)
    replica.query("ALTER SYSTEM SET max_standby_streaming_delay = -1")
    replica.query("SELECT pg_reload_conf()")
    with postgresql_replication_check.find_driver().connect(
        host=str(replica.folder), port=replica.port, user="postgres", dbname="postgres"
    ) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM held")
        primary.query("DELETE FROM held")
        primary.query("VACUUM held")
        replica.wait(
            "pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn() AND now() > pg_last_xact_replay_timestamp() + '1 s'"
        )
        result = run(fail_on="none", settle=0.5, lag_seconds_warning=1)
    replica.catch_up(primary)
    assert rules(result) == [("lag_seconds", "warning", "node2")]


def test_an_unused_slot_is_found(run, cluster):
    cluster.primary.query("SELECT pg_create_physical_replication_slot('nobody', true)")
    result = run(fail_on="warning", retained_wal_bytes_warning=0, retained_wal_bytes_critical=2**40)
    cluster.primary.query("SELECT pg_drop_replication_slot('nobody')")
    assert ("slot_active", "warning", "node1, slot nobody") in rules(result)
    assert ("slot_retained_wal", "warning", "node1, slot nobody") in rules(result)
    assert result["failed"]


def test_a_failing_archiver_is_found_and_its_recovery_too(run, cluster):
    primary = cluster.primary
    primary.query("ALTER SYSTEM SET archive_command = 'false'")
    primary.query("SELECT pg_reload_conf()")
    primary.query("SELECT pg_switch_wal()")
    primary.wait(
        "failed_count > 0 AND last_failed_time > coalesce(last_archived_time, '-infinity') FROM pg_stat_archiver"
    )
    result = run(archive_backlog_warning=1)
    primary.query("ALTER SYSTEM RESET archive_command")
    primary.query("SELECT pg_reload_conf()")
    primary.query("SELECT pg_switch_wal()")
    primary.wait("last_archived_time > last_failed_time FROM pg_stat_archiver")
    assert rules(result) == [("archiving", "critical", "node1"), ("archive_backlog", "warning", "node1")]
    assert result["failed"]
    assert rules(run(fail_on="warning")) == []


def test_a_setting_that_waits_for_a_restart_is_found(run, cluster):
    cluster.primary.query("ALTER SYSTEM SET max_connections = 50")
    cluster.primary.query("SELECT pg_reload_conf()")
    cluster.primary.wait("EXISTS (SELECT FROM pg_settings WHERE pending_restart)")
    result = run()
    cluster.primary.query("ALTER SYSTEM RESET max_connections")
    cluster.primary.query("SELECT pg_reload_conf()")
    cluster.primary.wait("NOT EXISTS (SELECT FROM pg_settings WHERE pending_restart)")
    assert rules(result) == [("pending_restart", "warning", "node1")]
    assert result["findings"][0]["found"] == "max_connections"


def test_transaction_ages_are_judged(run):
    result = run(fail_on="none", xid_age_warning=1)
    assert {where for rule, _severity, where in rules(result) if rule == "xid_age"} >= {"node1, database postgres"}


def test_a_wrong_password_is_told_without_it(run):
    result = run(login_password="wrong-one")
    assert [rule for rule, _severity, _where in rules(result)] == [
        "server_reachable",
        "server_reachable",
        "one_primary",
    ]
    assert "password authentication failed" in result["findings"][0]["found"]
    assert "wrong-one" not in json.dumps(result["findings"])


def test_an_unverifiable_server_is_not_trusted(run, cluster):
    result = run(ca_cert=str(cluster.authority.pem))
    assert "certificate verify failed" in result["findings"][0]["found"]


def test_a_server_without_our_certificate_gets_no_answer(run):
    result = run(client_cert=None)
    assert "certificate" in result["findings"][0]["found"]


def test_a_lost_replica_is_found(run, cluster, replica):
    replica.stop()
    cluster.primary.wait("NOT EXISTS (SELECT FROM pg_stat_replication)")
    result = run()
    replica.start()
    cluster.primary.wait("EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')")
    assert rules(result) == [
        ("server_reachable", "critical", "node2"),
        ("replica_streaming", "critical", "node2"),
        ("slot_active", "warning", "node1, slot node2"),
    ]
    assert rules(run(fail_on="warning")) == []


def test_two_primaries_are_a_split_brain(run, cluster):
    other = cluster.add_replica("node3")
    other.query("SELECT pg_promote()")
    members = [{"name": server.name, "host": "127.0.0.1", "port": server.port} for server in (cluster.primary, other)]
    result = run(members=members, fail_on="none")
    other.stop()
    cluster.primary.query("SELECT pg_drop_replication_slot('node3')")
    assert ("split_brain", "critical", "cluster") in rules(result)
    assert result["primary"] == ""
    assert [member["timeline"] for member in result["members"]] == [1, 2]


def test_options_that_contradict_each_other_are_refused(run):
    assert "lag_bytes_critical is 1, below lag_bytes_warning" in run(lag_bytes_critical=1)["msg"]
    assert "nothing to check" in run(members=[])["msg"]
    assert "ca_cert" in run(patroni_urls=["https://127.0.0.1:1"], client_cert=None)["msg"]
