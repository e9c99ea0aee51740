#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that keeps a pgBackRest stanza in its repositories."""

from __future__ import annotations

DOCUMENTATION = r"""
module: pgbackrest_stanza
short_description: Create a cluster's stanza in pgBackRest's repositories
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Creates the stanza where a repository does not know it, and upgrades it where the repository knows an older major version of
    the cluster. Where all is as it should be nothing is changed.
  - A repository that holds another cluster of the same name is refused, unless O(adopt) says otherwise.
  - Runs pgBackRest as the user C(postgres), on a host that C(/etc/pgbackrest.conf) makes one on which backups are made.
options:
  stanza:
    description: Name of the stanza.
    type: str
    required: true
  repositories:
    description: Numbers of the repositories.
    type: list
    elements: int
    required: true
  postgresql_version:
    description: Major version of PostgreSQL that the cluster has.
    type: str
    required: true
  adopt:
    description: Whether a repository that holds another cluster of the same name is used further.
    type: bool
    default: false
  primary_only:
    description: Whether to do nothing on a host whose PostgreSQL is a replica.
    type: bool
    default: false
attributes:
  check_mode:
    description: Says what would be created.
    support: partial
    details:
      - Whether a stanza that exists fits the cluster is found out only without it.
  diff_mode:
    description: Lists the repositories that know the stanza.
    support: full
"""

EXAMPLES = r"""
- name: Create the stanza
  holdfast.persistence.pgbackrest_stanza:
    stanza: lab
    repositories: [1]
    postgresql_version: "17"

- name: Say which of two repositories do not know the stanza yet
  holdfast.persistence.pgbackrest_stanza:
    stanza: lab
    repositories: [1, 2]
    postgresql_version: "17"
  check_mode: true
"""

RETURN = r"""
actions:
  description: What was done, in its order; in check mode what would be.
  type: list
  elements: str
  returned: success
  sample: [create]
missing:
  description: Numbers of the repositories that did not know the stanza.
  type: list
  elements: int
  returned: success
  sample: [1]
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import (
    Stanza,
    parse,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

MISMATCH = "do not match the database"
BUSY = "unable to acquire lock"


def pgbackrest(module: AnsibleModule, *arguments: str) -> tuple[int, str, str]:
    """Run pgBackRest as its user; return status, output and errors."""
    command = ["runuser", "--user", "postgres", "--", "pgbackrest", f"--stanza={module.params['stanza']}", *arguments]
    return module.run_command(command, cwd="/")


def read(module: AnsibleModule) -> Stanza:
    """Return what the repositories hold; failure ends the module. Raises Refusal."""
    code, out, err = pgbackrest(module, "--log-level-console=off", "--output=json", "info")
    if code:
        module.fail_json(msg=f"pgBackRest can't look into its repositories: {err.strip() or out.strip()}")
    return parse(out, module.params["stanza"])


def is_replica(module: AnsibleModule) -> bool:
    """Whether PostgreSQL of this host is in recovery; failure ends the module."""
    query = ["psql", "-XAtq", "-U", "postgres", "-d", "postgres", "-c", "SELECT pg_is_in_recovery()"]
    code, out, err = module.run_command(["runuser", "--user", "postgres", "--", *query], cwd="/")
    if code:
        module.fail_json(msg=f"PostgreSQL of this host does not say whether it is the primary: {err.strip()}")
    return out.strip() == "t"


def is_older(stanza: Stanza, version: str) -> bool:
    """Whether the repositories know the cluster only in older major versions."""
    return bool(stanza.versions) and max(float(item) for item in stanza.versions) < float(version)


def create(module: AnsibleModule, stanza: Stanza) -> list[str]:
    """Create or upgrade the stanza; return what was done. Failure ends the module."""
    code, out, err = pgbackrest(module, "--log-level-console=warn", "stanza-create")
    text = f"{out}\n{err}".strip()
    if not code:
        return ["create"] if stanza.missing else []
    if BUSY in text and not stanza.missing:
        # A backup runs: it has found the stanza to fit its cluster.
        return []
    if MISMATCH not in text:
        module.fail_json(msg=f"The stanza could not be created: {text}")
    if not (is_older(stanza, module.params["postgresql_version"]) or module.params["adopt"]):
        module.fail_json(
            msg=f"The repository holds another cluster under the name {module.params['stanza']}; nothing was changed. Give this "
            "cluster another cluster_name or the repository another path, or use it further with pgbackrest_adopt: true "
            f"(its backups stay until they expire). pgBackRest said: {text}"
        )
    code, out, err = pgbackrest(module, "--log-level-console=warn", "stanza-upgrade")
    if code:
        module.fail_json(msg=f"The stanza could not be upgraded: {out.strip()} {err.strip()}")
    return ["upgrade"]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "stanza": {"type": "str", "required": True},
            "repositories": {"type": "list", "elements": "int", "required": True},
            "postgresql_version": {"type": "str", "required": True},
            "adopt": {"type": "bool", "default": False},
            "primary_only": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = set(module.params["repositories"])
    if module.check_mode and module.get_bin_path("pgbackrest") is None:
        module.exit_json(changed=True, actions=["create"], missing=sorted(wanted))
    if module.params["primary_only"] and is_replica(module):
        module.exit_json(changed=False, actions=[], missing=[])
    try:
        before = read(module)
    except Refusal as error:
        module.fail_json(msg=str(error))
    if before.broken:
        faults = "; ".join(f"repository {number}: {text}" for number, text in sorted(before.broken.items()))
        module.fail_json(
            msg=f"{faults}. Check that the passphrase is the one the repository was made with, and that the store is reachable"
        )
    missing = sorted(wanted & set(before.missing))
    actions = (["create"] if missing else []) if module.check_mode else create(module, before)
    known = wanted - set(missing)
    module.exit_json(
        changed=bool(actions),
        actions=actions,
        missing=missing,
        diff={
            "before": "".join(f"repository {number}: {before.name}\n" for number in sorted(known)),
            "after": "".join(f"repository {number}: {before.name}\n" for number in sorted(wanted)),
        },
    )


if __name__ == "__main__":
    main()
