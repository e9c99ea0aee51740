# SPDX-License-Identifier: Apache-2.0
"""One look at each host: what it said becomes facts, and the first sick one is named."""

from __future__ import annotations

from dataclasses import replace

import pytest
from faults import health
from faults.health import Instance, Look

VIP = "198.18.5.100"
SAID = """etcd ok
postgresql {"primary" : true, "standbys" : 2}
services active
addresses 127.0.0.1 198.18.5.11 198.18.5.100
valkey 7001 cluster_state:ok cluster_slots_fail:0 role:master
valkey 7002 cluster_state:ok role:slave master_link_status:up
"""


def well() -> dict[str, Look | None]:
    primary = health.parse(SAID)
    replica = replace(primary, postgresql={"primary": False, "standbys": 0}, addresses=frozenset({"127.0.0.1"}))
    return {"node1": primary, "node2": replica, "node3": replica}


def test_a_look_has_what_a_host_said() -> None:
    look = health.parse(SAID)
    assert look.etcd and look.postgresql["primary"] and VIP in look.addresses
    assert look.instances == (
        Instance(7001, "master", linked=False, cluster_ok=True),
        Instance(7002, "slave", linked=True, cluster_ok=True),
    )


def test_a_host_that_says_nothing_has_nothing() -> None:
    assert health.parse("postgresql \nservices \naddresses \nvalkey 7001 \n") == Look(instances=(Instance(7001),))


def test_all_well() -> None:
    assert health.sickness(well(), VIP) == ""


@pytest.mark.parametrize(
    ("said", "sick"),
    [
        (SAID.replace("etcd ok", "etcd sick"), "etcd is not healthy on node1"),
        (SAID.replace('{"primary" : true, "standbys" : 2}', ""), "PostgreSQL does not answer on node1"),
        (SAID.replace("true", "false"), "0 primaries"),
        (SAID.replace('"standbys" : 2', '"standbys" : 1'), "1 of 2 replicas count for commits"),
        (SAID.replace("services active", "services active failed"), "a balancer's services are down on node1"),
        (SAID.replace(f" {VIP}", ""), "0 hosts have the virtual address"),
        (SAID.replace(" role:master", ""), "Valkey node1:7001 does not answer"),
        (SAID.replace("7002 cluster_state:ok", "7002 cluster_state:fail"), "Valkey node1:7002: the cluster is not ok"),
        (SAID.replace("status:up", "status:down"), "Valkey node1:7002: the link to its primary is down"),
        (SAID.replace("role:master", "role:master slave,fail?"), "Valkey node1:7001 sees a failed node"),
    ],
)
def test_what_is_sick_is_named(said: str, sick: str) -> None:
    assert health.sickness({**well(), "node1": health.parse(said)}, VIP) == sick


def test_a_host_that_cannot_be_asked_is_sick() -> None:
    assert health.sickness({**well(), "node3": None}, VIP) == "node3 cannot be asked"


def test_most_primaries_on_one_host_count_where_that_is_asked_for() -> None:
    looks = well()
    node1 = looks["node1"]
    assert node1
    both = tuple(replace(i, role="master") for i in node1.instances)
    idle = tuple(replace(i, role="slave", linked=True) for i in node1.instances)
    looks["node1"] = replace(node1, instances=both)
    looks["node3"] = replace(looks["node3"] or Look(), instances=idle)
    assert health.sickness(looks, VIP, spread=False) == ""
    assert health.sickness(looks, VIP) == "node1 has most of Valkey's primaries"
