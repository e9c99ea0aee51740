# SPDX-License-Identifier: Apache-2.0
"""A temporary server of a physical backup: its configuration."""

from __future__ import annotations

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import instance


def test_a_restore_beside_the_cluster_knows_the_repositories_and_nothing_else():
    text = """# Written by Ansible
[global]
log-level-console=warn
lock-path=/var/spool/pgbackrest/lock
spool-path=/var/spool/pgbackrest
archive-async=y
backup-standby=prefer
tls-server-address=198.18.0.14
tls-server-auth=pgbackrest-node1=lab
# main
repo1-path=/var/lib/pgbackrest
repo1-cipher-pass=secret

[global:archive-get]
io-timeout=10

[lab]
pg1-host=198.18.0.11
pg1-path=/var/lib/postgresql/17/lab
"""
    found = instance.configuration(text, "lab", "/scratch/data", "/scratch")
    assert "repo1-cipher-pass=secret" in found and "pg1-path=/scratch/data" in found
    assert not [
        word for word in ("tls-server", "pg1-host", "archive-async", "/var/spool", "io-timeout") if word in found
    ]
