# SPDX-License-Identifier: Apache-2.0
"""What a host that leaves would make of the inventory: preflight's own rules, and remove_node.yml that asks them first."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import judge

ROOT = Path(__file__).resolve().parents[3]
FIVE = ("node1", "node2", "node3", "node4", "node5")
FOUR = FIVE[:4]


def rules(problems):
    return [problem.rule for problem in problems]


def test_one_of_five_members_of_etcd_leaves_an_even_number(sample):
    five = sample.groups(etcd=FIVE, all=FIVE).inventory
    verdict = judge.judge_left(five, "node5", ["etcd"])
    assert rules(verdict.problems) == ["etcd_members"]
    assert verdict.problems[0].found == "4 members"
    accepted = judge.judge_left(five, "node5", ["etcd"], ["etcd_members"])
    assert (accepted.problems, rules(accepted.accepted)) == ((), ["etcd_members"])


def test_the_second_of_five_may_go_then(sample):
    assert judge.judge_left(sample.groups(etcd=FOUR, all=FOUR).inventory, "node4", ["etcd"]).problems == ()


def test_a_host_may_leave_one_tier_and_stay_in_the_others(sample):
    four = sample.groups(postgresql=FOUR, valkey=FOUR, all=FOUR).inventory
    left = judge.without(four, "node4", frozenset({"valkey"}))
    assert (left.groups["valkey"], left.groups["postgresql"]) == (FOUR[:3], FOUR)
    assert [host.name for host in left.members("valkey")] == list(FOUR[:3])
    assert judge.judge_left(four, "node4", ["valkey"]).problems == ()


@pytest.mark.parametrize("instances", [1, 2, 3, 4])
def test_one_of_four_hosts_of_valkey_leaves_a_shape_that_stands(sample, instances):
    four = sample.groups(valkey=FOUR, all=FOUR).variables(
        valkey_instances=[{"port": 7001 + n} for n in range(instances)]
    )
    problems = judge.judge_left(four.inventory, "node4", ["valkey"]).problems
    # Four instances on four hosts are too few already.
    assert problems == ()


def test_too_few_primaries_that_a_leaving_host_makes(sample):
    four = sample.groups(valkey=FOUR, all=FOUR).variables(valkey_instances=[{"port": 7001}], valkey_replicas=0)
    assert four.rules() == []
    assert judge.judge_left(four.inventory, "node4", ["valkey"]).problems == ()
    three = judge.without(four.inventory, "node4", frozenset({"valkey"}))
    assert rules(judge.judge_left(three, "node3", ["valkey"]).problems) == ["valkey_primaries"]


def test_the_last_balancer_takes_the_virtual_address_with_it(sample):
    one = sample.groups(balancer=("node1",)).variables(cluster_vip="192.0.2.200").inventory
    assert rules(judge.judge_left(one, "node1", ["balancer"]).problems) == ["vip_without_balancer"]


# The secrets of a cluster that stands.
SECRETS = re.findall(r"secret', '(\w+)'", (ROOT / "roles/cluster/defaults/main.yml").read_text())


def remove(tmp_path, members, *arguments):
    """Run remove_node.yml against hosts that nobody can reach."""
    inventory = {
        "all": {
            "vars": {
                "ansible_connection": "ssh",
                "ansible_host": "127.0.0.1",
                "ansible_port": 1,
                "cluster_secrets_dir": str(tmp_path / "secrets"),
            },
            "children": {"etcd": {"hosts": {f"node{number}": {} for number in range(1, members + 1)}}},
        }
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(inventory))
    (tmp_path / "secrets").mkdir(exist_ok=True)
    for name in SECRETS:
        (tmp_path / "secrets" / name).write_text("given\n")
    return subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            *(
                "--inventory",
                tmp_path / "hosts.yml",
                ROOT / "playbooks/remove_node.yml",
                "-e",
                "remove_node_host=node1",
            ),
            *arguments,
        ],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_remove_node_refuses_before_it_reaches_a_host(tmp_path):
    done = remove(tmp_path, 5)
    assert done.returncode != 0
    assert "Without node1 in etcd site.yml would refuse the inventory" in done.stdout
    assert "found 4 members" in done.stdout
    assert """{"preflight_skip_rules": ["etcd_members"]}""" in done.stdout
    assert "unreachable=1" not in done.stdout
    # Accepted, it goes on to the hosts, which nobody can reach here.
    accepted = remove(tmp_path, 5, "-e", '{"preflight_skip_rules": ["etcd_members"]}')
    assert "site.yml would refuse" not in accepted.stdout
    assert "UNREACHABLE" in accepted.stdout
