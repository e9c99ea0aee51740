# SPDX-License-Identifier: Apache-2.0
"""Secrets are made only where nobody gives one: a file that nothing uses would be taken for the password."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from .role_files import ROOT

FOLDERS = ("roles", "playbooks", "inventories", "molecule")


def test_no_secret_is_the_argument_of_a_filter() -> None:
    """Jinja evaluates what `default` is given whether it is needed or not, and the lookup makes the file."""
    eager = re.compile(r"default\(\s*(?:lookup|query)\(\s*'holdfast\.persistence\.secret'")
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in {".yml", ".j2"}]
    assert len(files) > 100
    assert [str(path) for path in files if eager.search(path.read_text(encoding="utf-8"))] == []


def test_a_user_with_a_password_has_no_secret(tmp_path: Path) -> None:
    """The ACL file of Valkey as the role makes it: the secret of the user without a password is made, no other."""
    secrets = tmp_path / "secrets"
    variables = {
        # Only a run whose preflight looked at the hosts makes secrets.
        "__preflight_verdict": {},
        "cluster_secrets_dir": str(secrets),
        "cluster_valkey_admin_password": "a",
        "cluster_valkey_replication_password": "b",
        "valkey_previous_passwords": {},
        "valkey_respread": False,
        "valkey_user_rules": "~* +@all",
        "valkey_users": [{"name": "given", "password": "word"}, {"name": "made"}, {"name": "empty", "password": ""}],
    }
    words = f"src={ROOT / 'roles/valkey/templates/users.acl.j2'} dest={tmp_path / 'users.acl'}"
    command = [str(Path(sys.executable).parent / "ansible"), "localhost", "-i", "localhost,", "-c", "local"]
    subprocess.run(
        [*command, "-m", "ansible.builtin.template", "-a", words, "-e", json.dumps(variables)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    assert {path.name for path in secrets.iterdir()} == {".gitignore", "valkey_user_made", "valkey_user_empty"}
    users = (tmp_path / "users.acl").read_text(encoding="utf-8")
    assert re.findall(r"^user (\w+) on #", users, re.MULTILINE) == ["admin", "replication", "given", "made", "empty"]
