# SPDX-License-Identifier: Apache-2.0
"""The screen of a healthy cluster and of one in trouble, word for word."""

from __future__ import annotations

import copy
import json
import textwrap

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import Finding
from ansible_collections.holdfast.persistence.plugins.module_utils.status import host, model, render, verdict
from hypothesis import given
from hypothesis import strategies as st

ADDRESSES = {"node1": "198.18.7.11", "node2": "198.18.7.12"}
VIP = "198.18.7.100"


def member(name, role, **changes):
    """A member as patroni_cluster_info returns it."""
    state = "running" if role == "leader" else "streaming"
    return {"name": name, "role": role, "state": state, "timeline": 3, "lag": 0, "pending_restart": False, **changes}


def stats(*up):
    """Answers of haproxy_info whose front ends send to these servers, in the order of model.FRONTENDS."""
    names = ("read_write_members", "read_only_members", "synchronous_members")
    servers = [[{"name": name, "up": name in names_up} for name in ADDRESSES] for names_up in up]
    return {
        "error": "",
        "frontends": {},
        "backends": {name: {"servers": found} for name, found in zip(names, servers, strict=True)},
    }


def node(identity, address, port, **changes):
    """A node as valkey_cluster_info returns it."""
    values = {
        "role": "primary", "primary": "", "slots": "0-16383", "open_slots": "", "error": "", "link_up": True,
        "lag_bytes": None, "keys": 12, "used_memory": 3 * 2**20, "max_memory": 2**30,
    }  # fmt: skip
    return {"id": identity, "address": address, "port": port, **values, **changes}


POOL = {
    "database": "orderdb", "user": "orderuser", "mode": "transaction", "clients_active": 8, "clients_waiting": 1,
    "servers_active": 4, "servers_idle": 2, "longest_wait": 0.25,
}  # fmt: skip
DATABASE = {"name": "orderdb", "paused": False}


def asked(result):
    """An answer of the action `ask`."""
    return {"answered_by": "", "errors": [], "result": result}


def answers():
    """Answers of two healthy hosts."""
    return {
        "host": [
            asked({
                "units": [{"name": "patroni.service", "state": "active"}, {"name": "etcd.service", "state": "active"}],
                "addresses": [address, *([VIP] if name == "node1" else [])],
                "certificates": [{"file": "ca.crt", "days_left": 3649}, {"file": "etcd.pem", "days_left": 364}],
            })
            for name, address in ADDRESSES.items()
        ],
        "haproxy": [stats(["node1"], ["node2"], ["node2"]) for _name in ADDRESSES],
        "pgbouncer": [
            {"error": "", "version": "1.24", "pools": [POOL], "databases": [DATABASE]},
            {"error": "", "version": "1.24", "pools": [], "databases": [DATABASE]},
        ],
        "patroni": [
            {
                "answered_by": "https://198.18.7.11:8008",
                "errors": [],
                "result": {
                    "leader": "node1",
                    "timeline": 3,
                    "synchronous": ["node2"],
                    "config": {"ttl": 20, "loop_wait": 5, "retry_timeout": 5, "synchronous_mode": "quorum"},
                    "members": [member("node1", "leader", lag=None), member("node2", "quorum_standby", lag=1536)],
                },
            },
            {},
        ],
        "etcd": [
            {
                "errors": [],
                "result": {
                    "findings": [],
                    "cluster": {
                        "leader": "node2",
                        "members": [
                            {"name": name, "error": "", "status": {"version": "3.5.16", "db_size": 20480}}
                            for name in ADDRESSES
                        ],
                    },
                },
            },
            {},
        ],
        "valkey": [
            {
                "errors": [],
                "result": {
                    "state": "ok", "slots_ok": 16384, "slots_assigned": 16384, "primaries": 1, "replicas": 1,
                    "agree": True, "keys": 12,
                    "nodes": [
                        node("a", "198.18.7.11", 7001),
                        node("b", "198.18.7.12", 7002, role="replica", primary="a", slots="", lag_bytes=0),
                    ],
                },
            },
            {},
        ],
    }  # fmt: skip


def build(told=None, **changes):
    """The model of these answers."""
    values = {
        "cluster": "lab", "time": "2026-11-23 00:20:00 UTC", "timing": "fast", "vip": VIP, "addresses": ADDRESSES,
        "engines": ["etcd", "patroni", "valkey"], "answers": told or answers(),
    }  # fmt: skip
    return model.build(**{**values, **changes})


def screen(lines):
    """Lines as the text that a golden text is compared with."""
    return "\n".join(lines).strip("\n") + "\n"


def golden(text):
    """A golden text as it stands in this file, without the indentation of the code."""
    return textwrap.dedent(text).lstrip("\n")


def test_a_healthy_cluster():
    assert screen(render.render(build())) == golden("""
        lab: 2 hosts, timing fast, address 198.18.7.100 on node1  (2026-11-23 00:20:00 UTC)

        HOSTS
          host   address       services  certificates
          node1  198.18.7.11  2 running      364 days
          node2  198.18.7.12  2 running      364 days

        POSTGRESQL  leader node1, quorum commit with node2, ttl 20 s, loop_wait 5 s, retry_timeout 5 s
          member  role            state      timeline      lag  note
          node1   leader          running           3
          node2   quorum standby  streaming         3  1.5 KiB

        ETCD  leader node2, 2 of 2 answer
          member  role      health   version  database
          node1   follower  healthy  3.5.16     20 KiB
          node2   leader    healthy  3.5.16     20 KiB

        ROUTING  HAProxy sends to
          balancer  read-write  read-only  synchronous
          node1     node1       node2      node2
          node2     node1       node2      node2

        POOLS  PgBouncer
          balancer  database        user       clients     servers     longest wait
          node1     orderdb         orderuser  8 (1 wait)  6 (2 idle)         0.2 s
          node2     no connections

        VALKEY  ok, 16384 of 16384 slots, 1 primaries, 1 replicas, 12 keys
          node        role           slots    lag  keys  memory          note
          node1:7001  primary        0-16383         12  3 MiB of 1 GiB
          node2:7002  of node1:7001           0 B    12  3 MiB of 1 GiB
    """)


def trouble():
    """Answers with much that is wrong."""
    told = copy.deepcopy(answers())
    told["host"][0]["result"]["units"][0]["state"] = "failed"
    told["host"][0]["result"]["certificates"][1]["days_left"] = -2
    told["host"][1] = {"errors": ["Failed to connect:\n timed out"], "result": {}}
    told["haproxy"][0] = {"error": "/run/haproxy/admin.sock: No such file or directory"}
    told["haproxy"][1] = {}
    told["pgbouncer"][0]["databases"] = [{"name": "orderdb", "paused": True}]
    told["pgbouncer"][1] = {"error": "refused", "version": "", "pools": [], "databases": []}
    told["patroni"][0]["result"]["leader"] = ""
    told["patroni"][0]["result"]["paused"] = True
    told["patroni"][0]["errors"] = ["https://198.18.7.11:8008: no answer"]
    told["patroni"][0]["result"]["members"][0].update(role="replica", state="start failed", pending_restart=True)
    told["etcd"][0] = {"errors": [], "result": {"findings": [
        {"rule": "etcd_quorum", "severity": "critical", "where": "etcd", "found": "timed out", "allowed": "an answer", "remedy": "Look."}
    ]}}  # fmt: skip
    told["valkey"][0]["result"].update(agree=False, state="fail", slots_ok=0)
    told["valkey"][0]["result"]["nodes"][1].update(
        error="refused", link_up=False, lag_bytes=None, used_memory=None, keys=None
    )
    return told


def test_a_cluster_in_trouble():
    assert screen(render.render(build(trouble()))) == golden("""
        lab: 2 hosts, timing fast, address 198.18.7.100 on node1  (2026-11-23 00:20:00 UTC)

        HOSTS
          host   address      services        certificates
          node1  198.18.7.11  patroni FAILED  etcd.pem EXPIRED 2 days ago
          node2  198.18.7.12  UNREACHABLE
          ! node2: Failed to connect: timed out

        POSTGRESQL  leader NONE, quorum commit with node2, ttl 20 s, loop_wait 5 s, retry_timeout 5 s  PAUSED
          member  role            state         timeline      lag  note
          node1   replica         start failed         3        -  restart pending
          node2   quorum standby  streaming            3  1.5 KiB
          ! https://198.18.7.11:8008: no answer

        ETCD  NO ANSWER
          ! etcd: timed out

        ROUTING  HAProxy sends to
          balancer  read-write  read-only  synchronous
          node1     NO ANSWER
          ! node1: /run/haproxy/admin.sock: No such file or directory

        POOLS  PgBouncer
          balancer  database        user       clients     servers     longest wait
          node1     orderdb PAUSED  orderuser  8 (1 wait)  6 (2 idle)         0.2 s
          node2     NO ANSWER
          ! node2: refused

        VALKEY  fail, 0 of 16384 slots, 1 primaries, 1 replicas, 12 keys, NODES DISAGREE
          node        role           slots    lag  keys  memory          note
          node1:7001  primary        0-16383         12  3 MiB of 1 GiB
          node2:7002  of node1:7001           -       -  -               NO ANSWER, LINK DOWN
          ! node2:7002: refused
    """)


def test_everything_is_down():
    told = {kind: [{}, {}] for kind in answers()}
    told["host"] = [{"errors": ["no route"], "result": {}}] * 2
    text = screen(render.render(build(told)))
    assert text.count("UNREACHABLE\n") == 2
    assert "  ! node2: no route\n" in text
    assert "address 198.18.7.100 on NO HOST" in text
    for engine in ("POSTGRESQL", "ETCD", "VALKEY"):
        assert f"{engine}  NO ANSWER\n  ! no host of its group can be reached" in text


def test_engines_that_the_inventory_lacks_are_not_shown():
    told = {kind: [{}, {}] for kind in answers()}
    told["host"] = answers()["host"]
    text = screen(render.render(build(told, engines=[], vip="")))
    assert "NO ANSWER" not in text
    assert "POOLS" not in text
    assert "address 198.18.7.100" not in text


def test_the_model_is_json():
    assert json.loads(json.dumps(build(trouble())))["cluster"] == "lab"


def rules(told, checks=None, **changes):
    """Findings as (rule, severity, where)."""
    quiet = {"errors": [], "result": {"findings": []}}
    found = verdict.judge(build(told, **changes), {"postgresql": quiet, "valkey": quiet} if checks is None else checks)
    return [(finding.rule, finding.severity, finding.where) for finding in found]


def test_a_healthy_cluster_has_no_findings():
    assert rules(answers()) == []


def test_trouble_is_found():
    assert set(rules(trouble())) == {
        ("service_runs", "critical", "node1"),
        ("certificate_lasts", "critical", "node1, etcd.pem"),
        ("host_reachable", "critical", "node2"),
        ("haproxy_answers", "critical", "node1"),
        ("pgbouncer_answers", "critical", "node2"),
        ("pool_serves", "warning", "node1, database orderdb"),
        ("etcd_quorum", "critical", "etcd"),
    }


def test_a_balancer_that_sends_writes_elsewhere_is_found():
    told = answers()
    told["haproxy"][1] = stats(["node2"], [], ["node2"])
    assert rules(told) == [
        ("routes_to_leader", "critical", "node2, read-write"),
        ("routes_to_replicas", "warning", "node2, read-only"),
    ]


@pytest.mark.parametrize("holders", [[], ["node1", "node2"]])
def test_the_address_is_held_once(holders):
    told = answers()
    for name, answer in zip(ADDRESSES, told["host"], strict=True):
        answer["result"]["addresses"] = [VIP] if name in holders else []
    assert rules(told) == [("address_held", "critical", VIP)]


def test_a_check_that_could_not_run_is_a_finding():
    checks = {"postgresql": {"errors": ["psycopg2 is missing"], "result": {}}, "valkey": {}}
    assert rules(answers(), checks) == [("check_ran", "critical", "postgresql"), ("check_ran", "critical", "valkey")]


def test_engines_that_the_inventory_lacks_are_not_judged():
    told = {**answers(), **{engine: [{}, {}] for engine in model.ENGINES}}
    assert rules(told, {"postgresql": None, "valkey": None}, engines=[]) == []


@given(st.integers(-10, 60))
def test_certificates_are_judged_by_days(days):
    told = answers()
    told["host"][0]["result"]["certificates"] = [{"file": "x.pem", "days_left": days}]
    expected = "critical" if days <= 7 else "warning" if days <= 30 else None
    assert rules(told) == ([("certificate_lasts", expected, "node1, x.pem")] if expected else [])


@pytest.mark.parametrize(
    ("first", "second", "known", "found"),
    [
        (["aa"], ["aa"], ["aa"], []),
        # While an authority is replaced hosts trust two of them.
        (["aa", "bb"], ["aa"], ["aa", "bb"], []),
        (["aa"], ["bb"], ["bb"], [("authority_shared", "critical", "certificates")]),
        (["aa"], ["aa"], ["bb"], [("authority_known", "critical", "node1"), ("authority_known", "critical", "node2")]),
        (["aa"], ["aa"], [], [("authority_known", "critical", "node1"), ("authority_known", "critical", "node2")]),
        ([], [], [], []),
    ],
)
def test_hosts_and_controller_have_an_authority_in_common(first, second, known, found):
    told = answers()
    for answer, held in zip(told["host"], (first, second), strict=True):
        answer["result"]["authorities"] = held
    assert broken(build(told, authorities=known)) == found


def test_services_that_an_upgrade_would_restart_are_found():
    told = answers()
    told["host"][1]["result"]["restarted_by"] = ["packages, patroni.service", "needrestart"]
    assert rules(told) == [("restarts_held", "warning", "node2")]


def through(*answers, errors=(), settings=None):
    """What one PostgreSQL host heard behind the balancers."""
    lines = [dict(zip(("balancer", "port", "member", "replica", "error"), answer, strict=True)) for answer in answers]
    return [{"errors": list(errors), "result": {"answers": lines, "settings": settings or {}} if lines else {}}]


def broken(model_):
    """Names of the rules that do not hold, with where."""
    return [(finding.rule, finding.severity, finding.where) for finding in verdict.judge(model_, {})]


def test_what_answers_behind_a_balancer_is_shown_and_judged():
    good = through(
        ("node1", "read_write", "node1", False, ""),
        ("node1", "pools", "node1", False, ""),
        ("node1", "read_only", "node2", True, ""),
        settings={"max_connections": "200", "work_mem": "4MB"},
    )
    seen = build({**answers(), "asked": good})
    assert broken(seen) == []
    text = screen(render.render(seen))
    assert "  max_connections 200, work_mem 4MB\n" in text
    assert "node1     node1       node2      node2        node1, node1 through the pool\n" in text


@pytest.mark.parametrize(
    ("answer", "severity", "found"),
    [
        (("node1", "read_write", "node2", True, ""), "critical", "node2 answers, a replica"),
        (("node1", "read_write", "node2", False, ""), "critical", "node2 answers"),
        (("node1", "read_write", "", None, "timeout expired"), "critical", "timeout expired"),
        (("node1", "read_only", "", None, "timeout expired"), "warning", "timeout expired"),
    ],
)
def test_a_balancer_that_leads_elsewhere_is_found_by_asking(answer, severity, found):
    (finding,) = verdict.judge(build({**answers(), "asked": through(answer)}), {})
    assert (finding.rule, finding.severity, finding.found) == ("routes_answered", severity, found)


def test_balancers_that_could_not_be_asked_are_found():
    assert broken(build({**answers(), "asked": through(errors=["psycopg2 is missing"])})) == [
        ("routes_answered", "critical", "balancers")
    ]


def test_timings_that_are_not_the_declared_ones_are_found():
    assert broken(build(declared={"ttl": 20, "loop_wait": 5, "retry_timeout": 5})) == []
    assert broken(build(declared={"ttl": 30, "loop_wait": 5})) == [("timing_in_force", "warning", "Patroni, ttl")]


def test_a_server_with_another_certificate_than_its_file_is_found():
    shown = [{"result": {"problems": {"Patroni (198.18.7.11:8008)": "it shows another certificate"}}}, {}]
    assert broken(build({**answers(), "served": shown})) == [
        ("certificate_in_use", "critical", "node1, Patroni (198.18.7.11:8008)")
    ]


def test_the_last_changes_of_the_leader_are_shown():
    told = copy.deepcopy(answers())
    told["patroni"][0]["result"]["history"] = [
        {"timeline": number, "lsn": 1, "timestamp": f"2026-11-23T00:0{number}:00.5+00:00", "new_leader": "node1"}
        for number in range(1, 6)
    ]
    lines = screen(render.render(build(told)))
    assert "  timeline 5 ended 2026-11-23 00:05:00, then led node1\n" in lines
    assert "timeline 2 " not in lines


def test_every_certificate_of_a_file_is_looked_at():
    one = "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"
    key = "-----BEGIN PRIVATE KEY-----\nBB==\n-----END PRIVATE KEY-----\n"
    assert host.split_certificates(key + one + one) == [one, one]


def test_findings_are_listed_with_their_remedies():
    findings = [
        Finding("slot_active", "warning", "node1, slot x", "unused", "active", "Drop it."),
        Finding("archiving_off", "info", "node1", "off", "on", "Configure backups."),
    ]
    assert screen(verdict.text("lab", findings)) == golden("""
        lab: 1 warning, 1 info

        WARNING  node1, slot x  [slot_active]
            found    unused
            allowed  active
            remedy   Drop it.

        INFO  node1  [archiving_off]
            found    off
            allowed  on
            remedy   Configure backups.
    """)
    assert screen(verdict.text("lab", [])) == "lab: every rule holds\n"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (20 * 2**20, "20 MiB"),
        (2**50, "1024 TiB"),
        (None, "-"),
    ],
)
def test_sizes_are_for_people(count, text):
    assert render.size(count) == text


@given(st.lists(st.tuples(st.text("ab 1", max_size=5), st.integers() | st.none()), max_size=4))
def test_tables_have_one_line_a_row(rows):
    assert len(render.table(("name", "value"), rows)) == len(rows) + 1


def test_units_are_read():
    text = (
        "Id=etcd.service\nLoadState=loaded\nActiveState=active\nSubState=running\nActiveEnterTimestamp=Mon 2026-11-23 00:00:00 UTC\n\n"
        "Id=nothing.service\nLoadState=not-found\nActiveState=inactive\nSubState=dead\nActiveEnterTimestamp=\n\n"
        "Id=once.service\nLoadState=loaded\nActiveState=active\nSubState=exited\n\n"
        "Id=ill.service\nLoadState=loaded\nActiveState=failed\nSubState=failed\n\n"
        "Id=look.path\nLoadState=loaded\nActiveState=active\nSubState=waiting\n"
    )
    assert [(unit["name"], unit["state"]) for unit in host.parse_units(text)] == [
        ("etcd.service", "active"),
        ("nothing.service", "not installed"),
        ("once.service", "active (exited)"),
        ("ill.service", "failed"),
        ("look.path", "active"),
    ]


def test_addresses_are_read_without_loopback():
    text = json.dumps([
        {"ifname": "lo", "addr_info": [{"local": "127.0.0.1", "scope": "host"}]},
        {"ifname": "eth0", "addr_info": [{"local": VIP, "scope": "global"}, {"local": "fe80::1", "scope": "link"}]},
        {"ifname": "eth1"},
    ])  # fmt: skip
    assert host.parse_addresses(text) == [VIP]


@pytest.mark.parametrize(("now", "days"), [(1795390200 - 86400, 1), (1795390200 - 86399, 0), (1795390200 + 1, -1)])
def test_days_left(now, days):
    assert host.days_left("notAfter=Nov 22 23:30:00 2026 GMT\n", now) == days
