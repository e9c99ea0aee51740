# SPDX-License-Identifier: Apache-2.0
"""The operator's journeys as people walk them: an unprivileged user over SSH, sudo with a password, the installed collection.

The hosts are those of HOLDFAST_LAB_CONNECTION=ssh: SSH on a port of its own, names of their own, 127.0.1.1, a time zone, a umask of 077
under sudo. The user has a umask of 077, too, an ansible.cfg that sets nothing, and may become nobody on this machine.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import documented
import psycopg
import pytest
from lab_access import Lab, ansible_playbook, changes, eventually, failures, outcome, patroni_leader, patroni_members

ROOT = Path(__file__).resolve().parents[3]
BIN = Path(sys.executable).parent
COLLECTION = "holdfast.persistence"
FOREIGN = ROOT / "molecule/default/journeys/foreign"
# Reads this machine's Python, wherever it lies, and has no other right of root.
UNPRIVILEGED = [
    *("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "--no-new-privs"),
    *(
        "--inh-caps",
        "+dac_read_search",
        "--ambient-caps",
        "+dac_read_search",
        "--bounding-set",
        "-all,+dac_read_search",
    ),
]


# What an ansible.cfg of somebody else may say beside the inventory and where collections are.
SETTINGS = {
    "ansible_managed": ["ansible_managed = written by {uid} on {host} at %Y-%m-%d %H:%M:%S"],
    "fact_caching": [
        "fact_caching = ansible.builtin.jsonfile",
        "fact_caching_connection = facts",
        "fact_caching_timeout = 0",
    ],
    "gathering": ["gathering = explicit"],
    "hash_behaviour": ["hash_behaviour = merge"],
    "any_errors_fatal": ["any_errors_fatal = true"],
    "forks": ["forks = 1"],
    "inject_facts_as_vars": ["inject_facts_as_vars = false"],
    "jinja2_native": ["jinja2_native = true"],
    "strategy": ["strategy = ansible.builtin.free"],
}


class Operator:
    """A user of the collection: a home with an inventory, secrets and the installed collection; nothing of the checkout."""

    def __init__(self, home: Path, lab: Lab) -> None:
        self.home = home
        self.lab = dataclasses.replace(lab, folder=home, secrets=home / "secrets")

    def run(self, program: str, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the virtual environment as the user, in the home."""
        shell = ["sh", "-euc", 'umask 077; exec "$@"', "sh", BIN / program, *arguments]
        return subprocess.run(
            [*(UNPRIVILEGED if os.getuid() == 0 else []), *shell],
            cwd=self.home,
            env={
                "PATH": f"{BIN}:/usr/bin:/bin",
                "HOME": str(self.home),
                "LANG": "C.UTF-8",
                "HOLDFAST_LAB": os.environ["HOLDFAST_LAB"],
                "HOLDFAST_LAB_DIR": str(self.home),
                "HOLDFAST_LAB_CONNECTION": "ssh",
                "HOLDFAST_SUITE": self.lab.suite,
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=3600,
            check=False,
        )

    def play(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the collection by its name; standard output is JSON."""
        environment = {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", "ANSIBLE_NOCOLOR": "1", **environment}
        return self.run("ansible-playbook", f"{COLLECTION}.{name}", *arguments, **environment)


# What documents name for the sake of the example, as the lab has it.
LAB_VALUES = {
    "CLUSTER_NAME": "lab",
    "FIRST": "lab",
    "SECOND": "lab",
    "node5": "node4",
    "orders": "orderdb",
    "orders_b": "orderuser",
    "public.items": "public.foreign_rows",
}
COMMANDS = list({(one.playbook, one.options): one for one in documented.commands()}.values())


def in_the_lab(value: Any) -> Any:
    """Return a value of a document's example as the lab has it; moments become the present one."""
    if isinstance(value, list):
        return [in_the_lab(inner) for inner in value]
    if isinstance(value, str) and re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+00:00", value):
        return time.strftime("%Y-%m-%d %H:%M:%S+00:00", time.gmtime())
    return LAB_VALUES.get(value, value) if isinstance(value, str) else value


def connect(lab: Lab, address: str) -> psycopg.Connection[Any]:
    """Connect to the primary as the application does."""
    password = lab.secret("postgresql_user_orderuser")
    (lab.folder / "connection.env").write_text(f"PGUSER=orderuser\nPGPASSWORD={password}\n")
    return lab.sql(address, 5432 if address != lab.vip else 5000, "orderdb")


def owned(folder: Path) -> None:
    """Give a folder to the unprivileged user, where tests run as root."""
    if os.getuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            shutil.chown(path, "nobody", "nogroup")


def make_hosts(lab: Lab) -> None:
    """Start the hosts that are missing."""
    wanted = {host.backend.hostname for host in (*lab.hosts.values(), lab.backup)}
    running = subprocess.run(["docker", "ps", "--format", "{{.Names}}"], capture_output=True, text=True, check=True)
    if wanted <= set(running.stdout.split()) and (lab.folder / "operator/login").exists():
        return
    created = ansible_playbook("--inventory", FOREIGN, ROOT / "molecule/default/create.yml")
    assert created.returncode == 0, failures(created)
    owned_login = lab.folder / "operator/login"
    if not owned_login.exists():
        shutil.copytree(lab.folder / "login", owned_login)
        owned(lab.folder / "operator")


@pytest.fixture(scope="module")
def operator(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """The user, with the collection installed from its tarball, before bare hosts."""
    home = lab.folder / "operator"
    shutil.rmtree(home / "collections", ignore_errors=True)
    (home / "inventory").mkdir(parents=True, exist_ok=True)
    for name, source in (("lab", ROOT / "inventories/lab"), ("foreign", FOREIGN)):
        shutil.copytree(source, home / "inventory" / name, dirs_exist_ok=True)
    (home / "ansible.cfg").write_text(
        "[defaults]\ninventory = inventory/lab,inventory/foreign\ncollections_path = collections\n"
    )
    make_hosts(lab)
    built = tmp_path_factory.mktemp("tarball")
    built.chmod(0o755)
    one = Operator(home, lab)
    subprocess.run(
        [BIN / "ansible-galaxy", "collection", "build", "--output-path", built],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (tarball,) = built.iterdir()
    owned(home)
    installed = one.run(
        "ansible-galaxy", "collection", "install", tarball, "--offline", "--collections-path", "collections"
    )
    assert installed.returncode == 0, installed.stdout + installed.stderr
    yield one


def test_site_from_bare_hosts_and_again(operator: Operator) -> None:
    first = operator.play("site")
    assert first.returncode == 0, failures(first)
    # By the network of pg_hba.conf, past the balancers and through the firewall.
    lab = operator.lab
    with connect(lab, lab.addresses[patroni_leader(lab)]) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert changes(operator.play("site")) == {}
    checked = operator.play("site", "--check", "--diff")
    assert changes(checked) == {}


def test_check_and_status(operator: Operator) -> None:
    assert changes(operator.play("check", "--extra-vars", "check_fail_on=warning")) == {}
    status = operator.play("status")
    assert changes(status) == {}
    assert patroni_leader(operator.lab) in status.stdout


@pytest.mark.parametrize("case", [*SETTINGS, "all at once"])
def test_site_changes_nothing_whatever_an_ansible_cfg_says(operator: Operator, case: str) -> None:
    settings = SETTINGS[case] if case in SETTINGS else [line for lines in SETTINGS.values() for line in lines]
    config = operator.home / "foreign.cfg"
    config.write_text("\n".join([(operator.home / "ansible.cfg").read_text().strip(), *settings, ""]))
    cache = operator.home / "facts"
    shutil.rmtree(cache, ignore_errors=True)
    cache.mkdir()
    for host in [*operator.lab.hosts, "backup1"]:
        # As another project left it before the host was upgraded.
        (cache / host).write_text(json.dumps({"ansible_distribution_release": "buster", "ansible_memtotal_mb": 512}))
    owned(cache)
    assert changes(operator.play("site", "--check", "--diff", ANSIBLE_CONFIG=str(config))) == {}


@pytest.mark.parametrize("options", [["--check"], []], ids=["check-mode", "run"])
def test_an_operator_without_the_folder_of_secrets_is_refused(operator: Operator, options: list[str]) -> None:
    folder = operator.home / "clone"
    shutil.rmtree(folder, ignore_errors=True)
    wish = ["--extra-vars", f'{{"cluster_secrets_dir": "{folder}"}}']
    done = operator.play("site", *options, *wish)
    assert done.returncode != 0
    assert "[authority]" in failures(done)
    done = operator.play("switchover", *options, *wish)
    assert done.returncode != 0
    assert not folder.exists()
    assert changes(operator.play("check")) == {}


def test_a_folder_without_one_secret_is_refused(operator: Operator) -> None:
    folder = operator.home / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(operator.home / "secrets", folder)
    (folder / "valkey_admin").unlink()
    owned(folder)
    done = operator.play("site", "--extra-vars", f'{{"cluster_secrets_dir": "{folder}"}}')
    assert done.returncode != 0
    assert "no file valkey_admin" in failures(done)
    assert not (folder / "valkey_admin").exists()


def test_two_at_once(operator: Operator) -> None:
    with ThreadPoolExecutor(max_workers=2) as workers:
        both = [workers.submit(operator.play, "site") for _operator in range(2)]
        done = [one.result() for one in both]
    told = [failures(one) for one in done if one.returncode]
    assert len(told) == 1, told
    assert "is changing this cluster now" in told[0]


def test_switchover(operator: Operator) -> None:
    before = patroni_leader(operator.lab)
    done = operator.play("switchover")
    assert done.returncode == 0, failures(done)
    assert patroni_leader(operator.lab) != before


def test_backup_and_restore(operator: Operator) -> None:
    lab = operator.lab
    with connect(lab, lab.vip) as connection:
        connection.execute("DROP TABLE IF EXISTS foreign_rows")
        connection.execute("CREATE TABLE foreign_rows AS SELECT generate_series(1, 1000) AS id")
    done = operator.play("backup")
    assert done.returncode == 0, failures(done)
    done = operator.play("restore_postgresql", "--extra-vars", f"confirm_restore={lab.cluster}")
    assert done.returncode == 0, failures(done)
    with connect(lab, lab.vip) as connection:
        assert connection.execute("SELECT count(*) FROM foreign_rows").fetchone() == (1000,)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda one: " ".join([one.playbook, *one.options]))
def test_documented_commands_say_in_check_mode_what_they_would_do(
    operator: Operator, command: documented.Command
) -> None:
    """Each ends well, or is refused with a sentence that says that nothing was changed: what it names is not there."""
    variables = {name: in_the_lab(value) for name, value in command.variables.items()}
    words = [word for tag in command.tags for word in ("--tags", tag)]
    done = operator.play(command.playbook, "--check", *words, "--extra-vars", json.dumps(variables))
    told = [line for line in failures(done).splitlines() if line.strip()]
    assert all(
        re.search(r"Nothing (was|is) (changed|done|backed|restored)|no host was changed", line) for line in told[:1]
    )
    assert done.returncode == 0 or told, done.stdout[-2000:]


@pytest.mark.parametrize(
    "playbook",
    [
        pytest.param(["rotate_certificates"], id="certificates"),
        pytest.param(["rotate_passwords"], id="passwords"),
        pytest.param(["rotate_passwords", "--extra-vars", "rotate_passwords_finish=true"], id="finish"),
    ],
)
def test_rotate(operator: Operator, playbook: list[str]) -> None:
    done = operator.play(*playbook)
    assert done.returncode == 0, failures(done)
    assert changes(operator.play("check")) == {}


def test_replace(operator: Operator) -> None:
    subprocess.run(["docker", "rm", "--force", "--volumes", operator.lab.hosts["node3"].backend.hostname], check=True)
    make_hosts(operator.lab)
    # The host has another key now, as a new machine has.
    host = f"[{operator.lab.addresses['node3']}]:2222"
    subprocess.run(["ssh-keygen", "-R", host, "-f", operator.home / "login/known_hosts"], check=True)
    owned(operator.home / "login")
    done = operator.play("replace_node", "--extra-vars", "replace_node_host=node3")
    assert done.returncode == 0, failures(done)
    members = eventually(
        lambda: patroni_members(operator.lab),
        lambda found: len(found) == 4 and all(m["State"] in ("running", "streaming") for m in found),
        120,
    )
    assert {member["Member"] for member in members} == {"node1", "node2", "node3", "node4"}


def test_remove(operator: Operator) -> None:
    done = operator.play("remove_node", "--extra-vars", "remove_node_host=node4")
    assert done.returncode == 0, failures(done)
    assert {member["Member"] for member in patroni_members(operator.lab)} == {"node1", "node2", "node3"}
    left = operator.play("site", "--inventory", "inventory/lab", "--extra-vars", "host_firewall=true")
    assert changes(left) == {}


def test_destroy(operator: Operator) -> None:
    done = operator.play("destroy", "--extra-vars", f"confirm_destroy={operator.lab.cluster}")
    assert done.returncode == 0, failures(done)
    assert outcome(done)["stats"]
    for host in operator.lab.hosts.values():
        assert not host.file("/etc/patroni/config.yml").exists
