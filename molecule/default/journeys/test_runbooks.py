# SPDX-License-Identifier: Apache-2.0
"""What the runbooks tell an operator to do, done on the running lab: etcd's data, a quorum's newest members, a Valkey copy and all
certificates are lost."""

from __future__ import annotations

import threading
import time

import expired_certificates
import psycopg
from lab_access import Lab, ansible_playbook, changes, eventually, failures, patroni_members, psql
from sql_load import Load

PATRONICTL = "patronictl -c /etc/patroni/config.yml"
# Patroni's process begins anew, PostgreSQL continues: its token is of the old etcd, and the new one waits for what that says.
RENEW = "systemctl kill --kill-whom=main --signal=KILL patroni.service"


def site(*options: str) -> None:
    """Run site.yml to its good end."""
    done = ansible_playbook("playbooks/site.yml", *options)
    assert done.returncode == 0, failures(done)


def assert_as_declared() -> None:
    """Another run of site.yml changes nothing, and every rule of check.yml holds."""
    assert changes(ansible_playbook("playbooks/site.yml")) == {}
    done = ansible_playbook("playbooks/check.yml", "--extra-vars", "check_fail_on=warning")
    assert done.returncode == 0, failures(done)


def answer(lab: Lab) -> str:
    """Write through the virtual address; return what went wrong, nothing where it went well."""
    try:
        with lab.sql(lab.vip, 6432, "orderdb", connect_timeout=5) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS answered (moment timestamptz)")
            connection.execute("INSERT INTO answered VALUES (now())")
    except psycopg.Error as error:
        return " ".join(str(error).split())
    return ""


def roles(lab: Lab) -> dict[str, str]:
    """Return the role of each member that runs."""
    return {item["Member"]: item["Role"] for item in patroni_members(lab) if item["State"] in ("running", "streaming")}


def primary(lab: Lab) -> str:
    """Return the host whose server takes writes, by asking every server."""
    asked = {
        name: host.run("runuser -u postgres -- psql -XAtc 'SELECT pg_is_in_recovery()'").stdout.strip()
        for name, host in lab.hosts.items()
    }
    return " ".join(name for name, recovering in asked.items() if recovering == "f")


def test_etcd_begins_anew_while_clients_write(lab: Lab) -> None:
    # A server that was promoted has settings of its recovery left, which a new Patroni calls changed.
    done = ansible_playbook("playbooks/switchover.yml")
    assert done.returncode == 0, failures(done)
    before = primary(lab)
    with Load(lab, prepared=True) as load:
        for command in (
            "systemctl stop etcd",
            f"mv /var/lib/etcd/{lab.cluster} /var/lib/etcd-before && rm -f /var/lib/holdfast/etcd-member",
        ):
            for host in lab.hosts.values():
                host.check_output(command)
        begun = time.time()
        site("--tags", "etcd")
        # Its token is of the old etcd: the new one waits for what it says, and Patroni for the answer.
        lab.hosts[before].check_output(RENEW)
        assert eventually(lambda: roles(lab).get(before), lambda role: role == "Leader", 60) == "Leader"
        for name in set(lab.hosts) - {before}:
            lab.hosts[name].check_output(RENEW)
        seconds = time.time() - begun
        assert eventually(lambda: len(roles(lab)), lambda number: number == len(lab.hosts), 60) == len(lab.hosts)
    print(
        f"{before} led, {primary(lab)} leads after {seconds:.0f} s; {load.transactions} transactions, {len(load.errors)} errors,"
        f" longest {load.longest(0, time.time()):.1f} s"
    )
    assert load.lost() == 0
    assert primary(lab) == before
    for host in lab.hosts.values():
        host.check_output("rm -r /var/lib/etcd-before")
    assert_as_declared()


def test_the_members_with_the_newest_commits_are_lost(lab: Lab) -> None:
    """With the primary and one of two replicas gone at one moment nobody can know whether the other has all commits."""
    before = primary(lab)
    left = sorted(set(lab.hosts) - {before})[0]
    gone = [host for name, host in lab.hosts.items() if name != left]
    threads = [
        threading.Thread(
            target=host.run, args=("systemctl kill --signal=KILL patroni; systemctl stop patroni patroni-guard",)
        )
        for host in gone
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert eventually(lambda: primary(lab), bool, 45) == "", "it led without being able to know"
        print(lab.hosts[left].check_output(f"{PATRONICTL} list"))
        print(lab.hosts[left].run(f"{PATRONICTL} failover {lab.cluster} --candidate {left} --force").stdout)
        assert eventually(lambda: primary(lab), lambda name: name == left, 60) == left
        assert eventually(lambda: answer(lab), lambda problem: not problem, 60) == ""
    finally:
        for host in gone:
            host.run("systemctl start patroni patroni-guard")
    assert eventually(lambda: sorted(roles(lab)), lambda names: names == sorted(lab.hosts), 120) == sorted(lab.hosts)
    assert psql(lab.hosts[left], "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == str(len(gone))
    assert_as_declared()


def test_a_copy_of_valkey_that_cannot_be_loaded_is_made_anew(lab: Lab) -> None:
    host = lab.hosts["node3"]
    folder = "/var/lib/valkey/7002"
    unit = "valkey-server@7002"
    with lab.valkey_admin("node3", 7002) as server:
        if server.info("replication")["role"] == "master":
            server.execute_command("CLUSTER", "FAILOVER")
    host.check_output(
        f"systemctl kill --signal=KILL {unit}; head -c 4000 /dev/urandom > $(ls {folder}/appendonlydir/*.base.rdb)"
    )
    failed = eventually(
        lambda: str(host.run(f"systemctl is-failed {unit}").stdout.strip()), lambda state: state == "failed", 30
    )
    assert failed == "failed"
    host.check_output(
        f"mkdir -p /var/lib/valkey-7002-before && mv {folder}/appendonlydir {folder}/dump.rdb /var/lib/valkey-7002-before/"
    )
    host.check_output(f"systemctl reset-failed {unit} && systemctl start {unit}")

    def link() -> str:
        with lab.valkey_admin("node3", 7002) as server:
            return str(server.info("replication").get("master_link_status"))

    assert eventually(link, lambda state: state == "up", 30) == "up"
    host.check_output("rm -r /var/lib/valkey-7002-before")
    assert_as_declared()


def test_expired_certificates_are_renewed(lab: Lab) -> None:
    """Nobody ran site.yml for a year and every service was started anew: one run brings all of it back."""
    print(f"{expired_certificates.expire(lab)} certificates have ended")
    down = eventually(lambda: answer(lab), bool, 60)
    assert down
    print(down)
    begun = time.monotonic()
    site()
    print(f"site.yml: {time.monotonic() - begun:.0f} s")
    assert eventually(lambda: answer(lab), lambda problem: not problem, 60) == ""
    assert_as_declared()
