# SPDX-License-Identifier: Apache-2.0
"""What an ansible.cfg of somebody else may say without a consequence. The rest is tried on hosts (`make foreign`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .play_files import ROOT

TEMPLATES = sorted((ROOT / "roles").glob("*/templates/*.j2"))


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT / "roles")))
def test_no_file_says_who_wrote_it_when(path: Path) -> None:
    # With a user or a date in ansible_managed every run would write the file, and restart what reads it.
    assert "ansible_managed" not in path.read_text(encoding="utf-8")


def test_facts_are_those_of_this_run(tmp_path: Path) -> None:
    """A cache that somebody else filled knows less, and knows the release before the last upgrade."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/node1").write_text(json.dumps({"ansible_distribution_release": "buster"}))
    facts = {
        "ansible.builtin.debug": {
            "msg": "{{ ansible_facts['distribution_release'] }} {{ ansible_facts['memtotal_mb'] }}"
        }
    }
    role = {"ansible.builtin.import_role": {"name": "holdfast.persistence.cluster", "rolespec_validate": False}}
    play = {"hosts": "all", "gather_facts": False, "tasks": [role, facts, role]}
    (tmp_path / "play.json").write_text(json.dumps([play]))
    inventory = {
        "all": {"hosts": {"node1": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}}}
    }
    (tmp_path / "hosts.json").write_text(json.dumps(inventory))
    done = subprocess.run(
        [
            Path(sys.executable).parent / "ansible-playbook",
            *("--inventory", tmp_path / "hosts.json", tmp_path / "play.json"),
        ],
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(ROOT / ".link"),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
            "ANSIBLE_CACHE_PLUGIN": "ansible.builtin.jsonfile",
            "ANSIBLE_CACHE_PLUGIN_CONNECTION": str(tmp_path / "cache"),
            "ANSIBLE_INJECT_FACT_VARS": "false",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, told, again = json.loads(done.stdout[done.stdout.index("{") :])["plays"][0]["tasks"]
    release, memory = told["hosts"]["node1"]["msg"].split()
    assert release != "buster"
    assert int(memory) > 0
    assert not first["hosts"]["node1"].get("skipped")
    assert again["hosts"]["node1"]["skipped"]
