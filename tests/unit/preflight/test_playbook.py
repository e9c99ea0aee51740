# SPDX-License-Identifier: Apache-2.0
"""playbooks/preflight.yml against a bad inventory: one failure that lists everything, and nothing changed."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[3]

BAD_INVENTORY = """
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{ ansible_playbook_python }}"
    ansible_become: false
    ansible_remote_tmp: "{{ inventory_dir }}/tmp"
    cluster_vip: 192.0.2.500
    cluster_etcd_root_password: changeme
    cluster_valkey_admin_password: "{{ missing_vault_entry }}"
    cluster_nmae: orders
    patroni_timing: fastest
    # What this machine's apt has is asked below, where that is what is tested.
    preflight_skip_rules: [package_unavailable]
    valkey_instances: [{port: 7001}, {port: 7001}]
  children:
    etcd:
      hosts: {node1: {cluster_address: 192.0.2.1}, node2: {cluster_address: 192.0.2.1}}
    postgres:
      hosts: {node3: {cluster_address: db3}}
    valkey:
      hosts: {node1: {}}
"""

EXPECTED = {
    "address_duplicate",
    "address_not_on_host",
    "etcd_members",
    "port_clash",
    "template_error",
    "timing_profile",
    "unknown_group",
    "unknown_variable",
    "valkey_primaries",
    "vip_not_ip",
    "weak_secret",
}


@pytest.fixture
def run(tmp_path):
    """Return a function that runs the playbook and returns (exit code, plays as data, text)."""

    def _run(inventory: str, *arguments: str):
        (tmp_path / "hosts.yml").write_text(inventory, encoding="utf-8")
        environment = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
            "ANSIBLE_HOME": str(tmp_path / "home"),
        }
        command = [sys.executable, "-m", "ansible", "playbook", "-i", str(tmp_path / "hosts.yml"), *arguments]
        done = subprocess.run(
            [*command, str(ROOT / "playbooks" / "preflight.yml")],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
        )
        return done.returncode, json.loads(done.stdout[done.stdout.index("{") :]), done.stdout

    return _run


def judgement(report: dict) -> dict:
    """Return the one result of the task that judges."""
    tasks = {task["task"]["name"]: task for task in report["plays"][-1]["tasks"]}
    (result,) = tasks["holdfast.persistence.preflight : Judge the inventory and all hosts"]["hosts"].values()
    return result


def test_one_failure_lists_everything_and_nothing_changes(run, tmp_path):
    code, report, text = run(BAD_INVENTORY, "-e", "preflight_details=true")
    result = judgement(report)
    assert code != 0
    assert {problem["rule"] for problem in result["problems"]} >= EXPECTED
    assert all(f"[{rule}]" in result["msg"] for rule in EXPECTED)
    assert result["msg"].startswith(f"{len(result['problems'])} problems found; no host was changed.")
    assert "rename it to cluster_name" in result["msg"]
    assert {host["changed"] for host in report["stats"].values()} == {0}
    assert not (tmp_path / ".secrets").exists()
    assert "changeme" not in text


def test_check_mode_says_the_same_and_without_details_the_list_stands_alone(run):
    code, report, _text = run(BAD_INVENTORY, "--check", "--diff")
    result = judgement(report)
    assert code != 0
    assert all(f"[{rule}]" in result["msg"] for rule in EXPECTED)
    assert "problems" not in result


def test_accepted_rules_no_longer_fail(run):
    skipped = json.dumps(
        {"preflight_skip_rules": sorted({*EXPECTED, "package_unavailable"}), "preflight_details": True}
    )
    _code, report, _text = run(BAD_INVENTORY, "-e", skipped)
    result = judgement(report)
    assert {problem["rule"] for problem in result["accepted"]} == EXPECTED
    # What remains is what this machine lacks as a host, such as a systemd as process 1.
    assert not EXPECTED & {problem["rule"] for problem in result["problems"]}


def test_a_host_whose_clock_is_ahead_is_named(run, tmp_path):
    """One of three hosts reads its clock through a Python and a `date` that are five seconds ahead."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "ahead").mkdir()
    (tmp_path / "ahead" / "sitecustomize.py").write_text(
        "import time\n_now = time.time\ntime.time = lambda: _now() + 5\n", encoding="utf-8"
    )
    scripts = {
        "python": f'PYTHONPATH={tmp_path}/ahead exec {sys.executable} "$@"',
        "sh": f'PATH={tmp_path}/bin:$PATH exec /bin/sh "$@"',
        "bin/date": 'exec /bin/date --date="5 seconds" "$@"',
    }
    for name, line in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    inventory = f"""
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
    ansible_become: false
    ansible_remote_tmp: "{tmp_path}/tmp"
    preflight_skip_rules: [package_unavailable]
valkey:
  hosts:
    node1:
    node2:
      ansible_python_interpreter: {tmp_path}/python
      ansible_shell_executable: {tmp_path}/sh
    node3:
"""
    _code, report, _text = run(inventory, "-e", "preflight_details=true")
    (problem,) = (item for item in judgement(report)["problems"] if item["rule"] == "clock_skew")
    assert problem["hosts"] == ["node2"]
    assert "ahead of" in problem["found"]
    # Plays that name their strategy in full are reported task by host.
    (bounds,) = (
        entry["hosts"]["node2"]["clock"]
        for entry in report["plays"][-1]["tasks"]
        if "clock" in entry["hosts"].get("node2", {})
    )
    assert bounds["low"] <= 5 <= bounds["high"]


def test_a_package_that_no_source_has_is_named_before_anything_changes(run, tmp_path):
    """Asked of this machine's own apt, whose lists stay as they are."""
    inventory = f"""
all:
  vars:
    ansible_connection: local
    ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"
    ansible_become: false
    ansible_remote_tmp: "{tmp_path}/tmp"
    host_packages_extra: [holdfast-no-such-package]
valkey: {{hosts: {{node1: {{}}}}}}
"""
    lists = sorted((entry.name, entry.stat().st_mtime) for entry in os.scandir("/var/lib/apt/lists"))
    code, report, _text = run(inventory, "--check", "-e", "preflight_details=true")
    (problem,) = (item for item in judgement(report)["problems"] if item["rule"] == "package_unavailable")
    assert code != 0
    assert problem["where"] == "node1/package holdfast-no-such-package"
    assert problem["found"].startswith("no such package in the package sources of Debian")
    assert problem["remedy"] == "correct host_packages_extra, or add a package source that has it"
    assert {host["changed"] for host in report["stats"].values()} == {0}
    assert sorted((entry.name, entry.stat().st_mtime) for entry in os.scandir("/var/lib/apt/lists")) == lists
