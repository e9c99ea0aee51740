# SPDX-License-Identifier: Apache-2.0
"""What is common to all hosts: their services run and start at boot, nothing else does, secrets stay secret."""

from __future__ import annotations

import stat
import subprocess

import pytest
from testinfra.host import Host

from .conftest import ROOT, TLS, Lab, patroni_leader

SERVICES = [
    "etcd.service",
    "patroni.service",
    "pgbouncer.service",
    "haproxy.service",
    "keepalived.service",
    "valkey-server@7001.service",
    "valkey-server@7002.service",
]
# What the packages bring and would start by themselves.
FOREIGN = ["valkey-server.service", "valkey-sentinel.service", "postgresql@*.service"]
CERTIFICATES = {
    "etcd.pem": "etcd",
    "etcd-client.pem": "postgres",
    "postgresql.pem": "postgres",
    "pgbackrest.pem": "postgres",
    "pgbouncer.pem": "postgres",
    "haproxy.pem": "root",
    "valkey.pem": "valkey",
}
# Shorter ones would be found in innocent text.
SHORTEST_SECRET = 12


@pytest.mark.parametrize("service", SERVICES)
def test_service_runs_and_starts_at_boot(host: Host, service: str) -> None:
    assert host.check_output("systemctl is-active %s", service) == "active"
    assert host.check_output("systemctl is-enabled %s", service) in {"enabled", "enabled-runtime"}


@pytest.mark.parametrize("pattern", FOREIGN)
def test_no_service_of_a_package_runs_beside_ours(host: Host, pattern: str) -> None:
    running = host.check_output("systemctl list-units --no-legend --plain --state=active,activating,failed %s", pattern)
    assert running == ""


def test_no_unit_has_failed(host: Host) -> None:
    assert host.check_output("systemctl list-units --no-legend --plain --state=failed") == ""


def test_no_service_was_restarted_by_systemd(host: Host) -> None:
    for service in SERVICES:
        assert host.check_output("systemctl show --property=NRestarts --value %s", service) == "0", service


@pytest.mark.parametrize("name", sorted(CERTIFICATES))
def test_private_keys_belong_to_their_service(host: Host, name: str) -> None:
    file = host.file(f"{TLS}/{name}")
    assert (file.user, file.mode) == (CERTIFICATES[name], 0o600)
    assert "PRIVATE KEY" in file.content_string


def test_only_private_keys_of_services_are_on_the_host(host: Host) -> None:
    found = host.check_output(
        "grep --recursive --devices=skip --files-with-matches 'PRIVATE KEY-----' /etc /root /home"
    )
    # Debian's package ssl-cert makes a key that nobody here uses.
    keys = set(found.split()) - {"/etc/ssl/private/ssl-cert-snakeoil.key"}
    assert keys == {f"{TLS}/{name}" for name in CERTIFICATES}


def secrets(lab: Lab) -> set[str]:
    """Return every secret of the lab."""
    generated = {path.read_text().strip() for path in lab.secrets.iterdir() if path.is_file() and path.name[0] != "."}
    found = generated | {lab.environment["PGPASSWORD"], lab.environment["VALKEY_PASSWORD"]}
    assert len(found) >= 8
    assert min(map(len, found)) >= SHORTEST_SECRET
    return found


def search(lab: Lab, node: str, command: str) -> str:
    """Run a command on a host that reads the secrets, one a line, from standard input; return what it prints."""
    container = lab.hosts[node].backend.hostname
    done = subprocess.run(
        ["docker", "exec", "-i", container, "sh", "-c", command],
        input="".join(f"{secret}\n" for secret in sorted(secrets(lab))),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode in {0, 1}, done.stderr
    return done.stdout


def test_files_with_secrets_are_not_for_everybody(lab: Lab, node: str) -> None:
    files = search(
        lab,
        node,
        "grep --recursive --devices=skip --files-with-matches --fixed-strings --file=- /etc /usr/local /root /run/holdfast",
    ).split()
    # Patroni's configuration and PgBouncer's list of users hold passwords: the search does find them.
    assert {"/etc/patroni/config.yml", "/etc/pgbouncer/userlist.txt"} <= set(files)
    for path in files:
        assert lab.hosts[node].file(path).mode & 0o007 == 0, path


@pytest.mark.parametrize("source", ["ps -eo args", "journalctl --no-pager --output=cat"])
def test_no_secret_is_in_a_process_list_or_the_journal(lab: Lab, node: str, source: str) -> None:
    patterns = "/run/holdfast-patterns"
    found = search(
        lab, node, f"umask 077; cat > {patterns}; {source} | grep --fixed-strings --file={patterns}; rm {patterns}"
    )
    assert found == ""


def test_secrets_on_the_controller_are_private(lab: Lab) -> None:
    folders = [lab.secrets, *(path for path in lab.secrets.rglob("*") if path.is_dir())]
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder
    for path in lab.secrets.rglob("*"):
        if path.is_file() and path.suffix != ".crt":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((lab.folder / "connection.env").stat().st_mode) == 0o600


def test_git_ignores_what_the_lab_keeps(lab: Lab) -> None:
    files = [path for path in lab.folder.rglob("*") if path.is_file()]
    assert files
    for path in files:
        ignored = subprocess.run(["git", "check-ignore", "--quiet", path], cwd=ROOT, check=False)
        assert ignored.returncode == 0, path


def test_time_is_kept(host: Host) -> None:
    # In a container the kernel's clock is not ours: the unit's own condition keeps it from running there.
    assert host.service("chrony.service").is_enabled


def test_packages_restart_nothing(lab: Lab) -> None:
    leader = lab.hosts[patroni_leader(lab)]
    command = f"systemctl show --property=Id,InvocationID {' '.join(SERVICES)}"
    before = leader.check_output(command)
    leader.check_output(
        "apt-get install --reinstall --yes patroni etcd-server haproxy pgbouncer keepalived valkey-server"
    )
    assert leader.check_output(command) == before
