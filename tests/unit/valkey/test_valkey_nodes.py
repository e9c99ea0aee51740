# SPDX-License-Identifier: Apache-2.0
"""The filter that lists the Valkey instances of an inventory."""

from __future__ import annotations

from pathlib import Path

import yaml
from ansible_collections.holdfast.persistence.plugins.filter.valkey_nodes import FilterModule, valkey_nodes

ROLE = Path(__file__).resolve().parents[3] / "roles" / "valkey"
DEFAULT = [{"port": 7001}, {"port": 7002}]


def test_address_zone_and_instances_come_from_the_inventory():
    hostvars = {
        "a": {"cluster_address": "198.18.0.1", "ansible_host": "a.example", "zone": "z1"},
        "b": {"ansible_host": "b.example", "valkey_instances": [{"port": "7009", "weight": 2.5, "role": "primary"}]},
        "c": {"valkey_instances": []},
    }
    assert valkey_nodes(["a", "b", "c"], hostvars, DEFAULT) == [
        {"address": "198.18.0.1", "port": 7001, "host": "a", "zone": "z1", "weight": 1},
        {"address": "198.18.0.1", "port": 7002, "host": "a", "zone": "z1", "weight": 1},
        {"address": "b.example", "port": 7009, "host": "b", "zone": "", "weight": 2.5, "role": "primary"},
    ]


def test_pins_and_departures_are_passed_on_and_nothing_else():
    hostvars = {"a": {"valkey_instances": [{"port": 1, "slots": "0-9", "state": "absent", "maxmemory": "1gb"}]}}
    [node] = valkey_nodes(["a"], hostvars, DEFAULT)
    assert (node["slots"], node["state"]) == ("0-9", "absent")
    assert "maxmemory" not in node


def test_the_role_knows_its_own_default():
    defaults = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text(encoding="utf-8"))
    internal = yaml.safe_load((ROLE / "vars" / "main.yml").read_text(encoding="utf-8"))
    assert defaults["valkey_instances"] == internal["__valkey_default_instances"] == DEFAULT


def test_the_filter_has_its_name():
    assert FilterModule().filters() == {"valkey_nodes": valkey_nodes}
