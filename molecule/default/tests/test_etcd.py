# SPDX-License-Identifier: Apache-2.0
"""etcd, by etcdctl: three voting members over mTLS, users with the rights they need and no more."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from testinfra.backend.base import CommandResult

from .conftest import TLS, Lab, eventually, patroni_leader


def etcdctl(lab: Lab, node: str, command: str, user: str = "root", secret: str = "etcd_root") -> CommandResult:
    """Run etcdctl on a host over mTLS; without a user where it is empty."""
    login = f"ETCDCTL_USER={user}:{lab.secret(secret)} " if user else ""
    return lab.hosts[node].run(
        f"env ETCDCTL_API=3 {login}etcdctl --command-timeout=20s --endpoints=https://127.0.0.1:2379 --cacert={TLS}/ca.crt "
        f"--cert={TLS}/etcd-client.pem --key={TLS}/etcd-client.pem {command}"
    )


def answer(result: CommandResult) -> Any:
    assert result.rc == 0, result.stderr
    return json.loads(result.stdout)


def statuses(lab: Lab) -> list[dict[str, Any]]:
    return answer(etcdctl(lab, "node1", "endpoint status --cluster --write-out=json"))  # type: ignore[no-any-return]


def test_every_endpoint_is_healthy(lab: Lab, node: str) -> None:
    health = answer(etcdctl(lab, node, "endpoint health --cluster --write-out=json"))
    assert {entry["endpoint"] for entry in health} == {f"https://{address}:2379" for address in lab.addresses.values()}
    assert all(entry["health"] for entry in health), health


def test_members_are_the_hosts_and_all_vote(lab: Lab) -> None:
    members = answer(etcdctl(lab, "node1", "member list --write-out=json"))["members"]
    assert {member["name"]: member["peerURLs"] for member in members} == {
        name: [f"https://{address}:2380"] for name, address in lab.addresses.items()
    }
    assert not any(member.get("isLearner") for member in members)


def test_members_agree_on_one_leader(lab: Lab) -> None:
    found = [entry["Status"] for entry in statuses(lab)]
    assert len({status["leader"] for status in found}) == 1
    assert len({status["raftTerm"] for status in found}) == 1


def test_leader_is_not_on_the_host_of_the_primary(lab: Lab) -> None:
    def hosts() -> tuple[str, str]:
        leaders = [
            entry["Endpoint"]
            for entry in statuses(lab)
            if entry["Status"]["leader"] == entry["Status"]["header"]["member_id"]
        ]
        by_endpoint = {f"https://{address}:2379": name for name, address in lab.addresses.items()}
        return by_endpoint[leaders[0]], patroni_leader(lab)

    of_etcd, of_patroni = eventually(hosts, lambda pair: pair[0] != pair[1])
    assert of_etcd != of_patroni


def test_nobody_reads_without_a_user(lab: Lab, node: str) -> None:
    refused = etcdctl(lab, node, "get / --prefix --keys-only", user="")
    assert refused.rc != 0
    assert re.search("permission denied|user name is empty", refused.stderr), refused.stderr


def test_patronis_user_reads_its_own_cluster_only(lab: Lab) -> None:
    leader = etcdctl(lab, "node1", f"get /service/{lab.cluster}/leader --print-value-only", "patroni", "etcd_patroni")
    assert leader.stdout.strip() == patroni_leader(lab)
    refused = etcdctl(lab, "node1", "get /service/other/leader", "patroni", "etcd_patroni")
    assert refused.rc != 0
    assert "permission denied" in refused.stderr
    users = etcdctl(lab, "node1", "user list", "patroni", "etcd_patroni")
    assert users.rc != 0
    assert "permission denied" in users.stderr


@pytest.mark.parametrize("setting", ["HEARTBEAT_INTERVAL=100", "ELECTION_TIMEOUT=1000"])
def test_timing_is_that_of_the_profile(lab: Lab, node: str, setting: str) -> None:
    process = lab.hosts[node].check_output("systemctl show --property=MainPID --value etcd.service")
    variables = lab.hosts[node].check_output("tr '\\0' '\\n' < /proc/%s/environ", process).replace('"', "")
    assert f"ETCD_{setting}" in variables.splitlines()


def test_a_member_is_stopped_at_once(lab: Lab, node: str) -> None:
    """One that shuts down in good order answers Patroni with what it takes for final: its primary would step down."""
    assert lab.hosts[node].check_output("systemctl show --property=KillSignal --value etcd.service") == "9"
