# SPDX-License-Identifier: Apache-2.0
"""The shipped inventories load, and nothing can be said against them; others are read as an operator wrote them."""

from __future__ import annotations

import ast
import pathlib
import textwrap
from types import SimpleNamespace

import pytest
import yaml
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.holdfast.persistence.plugins.action.preflight import not_probed, read_inventory
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import judge
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import KNOWN_GROUPS

ROOT = pathlib.Path(__file__).resolve().parents[3]

ARGUMENTS = {
    "extra_groups": [],
    "extra_variables": [],
    "free_mib": 2048,
    "probe": "__preflight_probe",
    "packages": "__preflight_packages",
}


def plausible(address: str) -> dict:
    """Return what host_probe would return for a fresh machine."""
    return {
        "os": {"id": "debian", "codename": "trixie", "name": "Debian GNU/Linux 13 (trixie)"},
        "architecture": "x86_64",
        "python": "3.13.5",
        "memory_mib": 16000,
        "memory_total_mib": 16000,
        "cpus": 4,
        "systemd": True,
        "container": "",
        "time": {"synchronized": True, "wall": 0.0, "elapsed": 0.01},
        "clock": {"low": -0.05, "high": 0.05},
        "interfaces": [{"name": "eth0", "address": address, "prefix": 24}],
        "listeners": [{"port": 22, "address": "0.0.0.0", "process": "sshd", "directory": "/"}],
        "filesystems": [
            {"path": "/var/lib/postgresql", "mount": "/", "free_mib": 90000, "size_mib": 100000, "read_only": False}
        ],
        "postgresql_dirs": [],
        "etcd_dirs": [],
        "valkey_dirs": [],
        "patroni": {"scope": "", "data_dir": "", "real_dir": ""},
        "authorities": [],
        "secrets": [],
        "missing_locales": [],
    }


@pytest.fixture
def read(roles):
    """Return a function that reads an inventory as the action does, all hosts being plausible fresh machines."""

    def _read(source: pathlib.Path):
        loader = DataLoader()
        manager = InventoryManager(loader=loader, sources=[str(source)])
        variables = VariableManager(loader=loader, inventory=manager)
        hostvars = HostVars(manager, variables, loader)
        task_vars = {"groups": manager.get_groups_dict(), "hostvars": hostvars}
        for host in manager.hosts:
            address = hostvars[host].get("cluster_address") or hostvars[host].get("ansible_host") or ""
            variables.set_nonpersistent_facts(host, {"__preflight_probe": plausible(str(address))})
        return read_inventory(loader, task_vars, roles, ARGUMENTS)

    return _read


@pytest.mark.parametrize("name", ["converged", "standard", "lab"])
def test_nothing_can_be_said_against_a_shipped_inventory(read, name):
    verdict = judge.judge(read(ROOT / "inventories" / name))
    assert judge.render([*verdict.problems, *verdict.warnings]) == ""


EXAMPLES = sorted((ROOT / "examples").glob("*.yml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_no_problem_stands_in_an_example(read, path):
    verdict = judge.judge(read(path))
    assert judge.render([*verdict.problems, *verdict.warnings]) == ""


def test_every_example_is_told_of():
    page = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    assert len(EXAMPLES) >= 10
    assert [path.name for path in EXAMPLES if f"[`{path.name}`]({path.name})" not in page] == []


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("converged", {"etcd": 3, "postgresql": 3, "balancer": 3, "valkey": 3, "backup": 1}),
        ("standard", {"etcd": 3, "postgresql": 3, "balancer": 2, "valkey": 6, "backup": 1}),
    ],
)
def test_a_shipped_inventory_has_the_tiers_it_promises_in_zones(read, name, sizes):
    inventory = read(ROOT / "inventories" / name)
    assert {group: len(inventory.members(group)) for group in KNOWN_GROUPS if inventory.members(group)} == sizes
    assert all(host.zone for host in inventory.hosts)
    assert all(host.address.startswith("192.0.2.") for host in inventory.hosts)


@pytest.fixture
def written(tmp_path, read):
    """Return a function that writes an inventory of three machines with variables, and reads it."""

    def _written(text: str):
        variables = yaml.safe_load(textwrap.dedent(text))
        hosts = {f"node{number}": {"ansible_host": f"192.0.2.{number}"} for number in (1, 2, 3)}
        source = {"all": {"vars": variables, "children": {group: {"hosts": hosts} for group in ("etcd", "postgresql")}}}
        path = tmp_path / "hosts.yml"
        path.write_text(yaml.safe_dump(source), encoding="utf-8")
        return read(path)

    return _written


def test_templates_are_evaluated_for_each_host(written):
    inventory = written("""
        network: 198.51.100
        cluster_address: "{{ network }}.{{ inventory_hostname[-1] }}"
    """)
    assert [host.address for host in inventory.hosts] == ["198.51.100.1", "198.51.100.2", "198.51.100.3"]


def test_a_variable_that_cannot_be_evaluated_is_named_and_the_others_are_still_judged(written):
    inventory = written("""
        cluster_vip: "{{ vip_of_the_site }}"
        patroni_timing: "{{ 'slow' }}"
    """)
    problems = {problem.rule: problem for problem in judge.judge(inventory).problems}
    assert problems["template_error"].where == "node1, node2, node3/cluster_vip"
    assert "vip_of_the_site" in problems["template_error"].found
    assert problems["timing_profile"].found == "'slow'"


def test_defaults_of_roles_count_where_the_operator_set_nothing(written):
    inventory = written("{}")
    assert [host.value("cluster_name") for host in inventory.hosts] == ["holdfast"] * 3
    assert not inventory.hosts[0].given & {"cluster_name"}


def test_what_was_seen_counts_more_than_a_fact_cache(written):
    # As a cache has it that another project filled before the host was upgraded.
    inventory = written("""
        ansible_facts: {distribution_release: buster}
        cluster_name: "on_{{ ansible_facts['distribution_release'] }}"
    """)
    assert [host.value("cluster_name") for host in inventory.hosts] == ["on_trixie"] * 3


def test_a_generated_secret_is_not_made_by_looking(written, tmp_path):
    judge.judge(written("{}"))
    assert not (tmp_path / ".secrets").exists()


def test_a_foreign_variable_is_never_evaluated(written):
    assert (
        written("""
        site_secret: "{{ lookup('ansible.builtin.file', '/does/not/exist') }}"
    """)
        .hosts[0]
        .failed
        == {}
    )


def rules_named(tree):
    """Yield the names that code gives to problems: as `rule`, or to a function whose first parameter that is."""
    makers = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.args.args[:1] and node.args.args[0].arg == "rule"
    }
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = [keyword.value for keyword in call.keywords if keyword.arg == "rule"]
        if isinstance(call.func, ast.Name) and call.func.id in makers:
            given += call.args[:1]
        yield from (node.value for node in given if isinstance(node, ast.Constant))


def test_every_rule_registers_the_names_of_its_problems():
    folder = ROOT / "plugins" / "module_utils" / "preflight"
    sources = [*folder.glob("*.py"), ROOT / "plugins" / "action" / "preflight.py"]
    named = {name for path in sources for name in rules_named(ast.parse(path.read_text(encoding="utf-8")))}
    assert sorted(named) == list(judge.RULE_NAMES)


def test_a_role_default_that_a_rule_reads_is_registered():
    folder = ROOT / "plugins" / "module_utils" / "preflight"
    text = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    assert [name for name in judge.NEEDED if f'"{name}"' not in text and not name.startswith("cluster_port_")] == []


def test_an_unreached_host_is_a_problem():
    host = SimpleNamespace(name="node9", probe=None)
    found = list(not_probed(SimpleNamespace(stack=(host,)), {"ansible_play_hosts_all": ["node9"]}))
    assert [problem.rule for problem in found] == ["host_unreachable"]


def test_every_rule_is_documented():
    page = (ROOT / "docs" / "preflight.md").read_text(encoding="utf-8")
    rows = [line.split("`")[1] for line in page[page.index("## Rules") :].splitlines() if line.startswith("| `")]
    assert sorted(rows) == list(judge.RULE_NAMES)
