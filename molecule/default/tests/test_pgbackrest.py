# SPDX-License-Identifier: Apache-2.0
"""pgBackRest: who may reach a repository, what arrives there, and that a failover between and during backups leaves no gap."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from testinfra.host import Host

from .conftest import TLS, Lab, eventually, patroni_leader, patroni_members, psql, segment_number

PORT = 8432
SEGMENT_BYTES = 16 * 1024 * 1024


def pgbackrest(host: Host, lab: Lab, arguments: str) -> str:
    """Run pgBackRest as its user and return what it printed."""
    output: str = host.check_output(f"runuser -u postgres -- pgbackrest --stanza={lab.cluster} {arguments}")
    return output


def info(lab: Lab) -> dict[str, Any]:
    """Return what the backup host knows of the stanza."""
    found: list[dict[str, Any]] = json.loads(pgbackrest(lab.backup, lab, "--output=json --log-level-console=off info"))
    return found[0]


def archived(lab: Lab) -> set[int]:
    """Return the running numbers of all segments in the archive."""
    listed = lab.backup.check_output("find /var/lib/pgbackrest/archive -type f -printf '%f\\n'").splitlines()
    names = {name[:24] for name in listed if len(name) > 24 and "partial" not in name}
    return {segment_number(name) for name in names if not name.endswith("history")}


def test_repository_is_fine_and_encrypted(lab: Lab) -> None:
    found = info(lab)["repo"]
    assert [(repo["key"], repo["cipher"]) for repo in found] == [(1, "aes-256-cbc")]
    assert found[0]["status"]["code"] in {0, 2}, found


def test_servers_run_and_listen_on_the_clusters_address_only(lab: Lab) -> None:
    for host in (lab.backup, *lab.hosts.values()):
        assert host.service("pgbackrest-server").is_running
        assert host.service("pgbackrest-server").is_enabled
        listening = host.check_output(f"ss --no-header --listening --tcp --numeric 'sport = :{PORT}'").split()[3]
        assert listening.startswith("198.18."), listening


def test_secrets_are_for_postgres_only(lab: Lab) -> None:
    for host in (lab.backup, *lab.hosts.values()):
        file = host.file("/etc/pgbackrest.conf")
        assert (file.user, file.group, file.mode) == ("root", "postgres", 0o640)
    assert "cipher-pass" not in lab.hosts["node1"].file("/etc/pgbackrest.conf").content_string


def test_another_services_certificate_of_the_same_host_opens_no_repository(lab: Lab) -> None:
    host = lab.hosts["node1"]
    line = f"runuser -u postgres -- pgbackrest --stanza={lab.cluster} --output=json --log-level-console=off info"
    mine = f"--repo1-host-cert-file={TLS}/postgresql.pem --repo1-host-key-file={TLS}/postgresql.pem"
    assert "access denied" not in host.check_output(line)
    assert "access denied" in host.run(f"{line} {mine}").stdout


def test_archive_command_is_set_everywhere(lab: Lab, node: str) -> None:
    expected = f"/usr/local/lib/holdfast/archive-wal pgbackrest --stanza={lab.cluster} archive-push %p"
    assert psql(lab.hosts[node], "SHOW archive_command") == expected
    if node != patroni_leader(lab):
        assert (
            psql(lab.hosts[node], "SHOW restore_command")
            == f'/usr/local/lib/holdfast/restore-wal {lab.cluster} %f "%p"'
        )


@pytest.mark.parametrize("kind", ["full", "diff", "incr"])
def test_backup_is_made_from_a_standby_and_is_whole(lab: Lab, kind: str) -> None:
    known = {backup["label"] for backup in info(lab)["backup"]}
    said = pgbackrest(lab.backup, lab, f"--type={kind} --log-level-console=info backup")
    new = [backup for backup in info(lab)["backup"] if backup["label"] not in known]
    assert [backup["type"] for backup in new] == [kind], said
    assert not new[0]["error"]
    leader = lab.addresses[patroni_leader(lab)]
    copied = said.rpartition("from standby")[0] or said
    assert "wait for replay on the standby" in said, copied
    assert leader in said or "backup start archive" in said
    pgbackrest(lab.backup, lab, "check")


def switch_over(lab: Lab) -> None:
    """Let another member lead, and wait until all follow it."""
    old = patroni_leader(lab)
    lab.hosts[old].check_output("patronictl -c /etc/patroni/config.yml switchover --force")

    def settled() -> bool:
        members = patroni_members(lab)
        leaders = [member["Member"] for member in members if member["Role"] == "Leader"]
        running = [member["State"] in {"running", "streaming"} for member in members]
        return len(leaders) == 1 and leaders[0] != old and len(running) == 3 and all(running)

    assert eventually(settled, bool, 60)


def assert_no_gap(lab: Lab) -> None:
    """Segments from the oldest kept one to the newest are all there."""
    pgbackrest(lab.backup, lab, "check")
    numbers = archived(lab)
    assert set(range(min(numbers), max(numbers) + 1)) - numbers == set()


def test_failover_between_backups_leaves_no_gap_and_needs_no_setup(lab: Lab, superuser: Callable[[str], str]) -> None:
    superuser("SELECT pg_switch_wal()")
    switch_over(lab)
    assert_no_gap(lab)
    before = len(info(lab)["backup"])
    pgbackrest(lab.backup, lab, "--type=incr backup")
    assert len(info(lab)["backup"]) == before + 1


def test_failover_during_a_backup_leaves_nothing_half_made(lab: Lab) -> None:
    before = {backup["label"] for backup in info(lab)["backup"]}
    lab.backup.check_output(
        "systemd-run --quiet --unit=holdfast-test-backup --uid=postgres "
        f"pgbackrest --stanza={lab.cluster} --type=full --process-max=1 --compress-level=9 backup"
    )
    # The lab's database is small: the backup stands still in its middle while another member takes over.
    assert eventually(lambda: backup_runs(lab), bool, 20), "the backup never began"
    lab.backup.check_output("systemctl kill --signal=STOP holdfast-test-backup")
    assert state_of_backup(lab) == "active"
    switch_over(lab)
    lab.backup.check_output("systemctl kill --signal=CONT holdfast-test-backup")
    ended = eventually(lambda: state_of_backup(lab), lambda state: state != "active", 120)
    lab.backup.run("systemctl reset-failed holdfast-test-backup")
    new = [backup for backup in info(lab)["backup"] if backup["label"] not in before]
    # A switchover ends the session on the old primary, and with it the backup: nothing of it is listed.
    assert ended == "failed"
    assert new == []
    pgbackrest(lab.backup, lab, "--type=incr backup")
    assert_no_gap(lab)


def state_of_backup(lab: Lab) -> str:
    """Return systemd's word for the unit in which the test's backup runs."""
    return str(lab.backup.run("systemctl is-active holdfast-test-backup").stdout).strip()


def backup_runs(lab: Lab) -> bool:
    """Whether a backup holds the stanza's lock."""
    return bool(info(lab)["status"]["lock"]["backup"]["held"])
