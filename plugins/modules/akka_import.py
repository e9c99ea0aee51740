#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that imports an archive of Akka.NET's journal and snapshots."""

from __future__ import annotations

DOCUMENTATION = r"""
module: akka_import
short_description: Import an archive of Akka.NET's journal and snapshots
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Brings events, tags, metadata and snapshots of an archive into tables that the application has made. Persistence ids and their
    numbers stay as they are, and so do rows that are flagged as deleted, without which an emptied actor would use numbers again.
  - C(ordering) is written without holes. A reader by tag waits about ten seconds at its first query where there are some.
  - What exists already is left as it is, so that a second run adds nothing and a killed one is finished by the next.
  - The actors of the archive have to be stopped.
extends_documentation_fragment:
  - holdfast.persistence.events
options:
  mapping:
    description: The table mapping of the application, that of the archive.
    type: str
    choices: [default, postgresql]
    default: default
  schema:
    description: Schema of the journal. V(public), or V(akka_journal) with the mapping V(postgresql), if not given.
    type: str
    default: ''
  snapshot_schema:
    description: Schema of the snapshots. O(schema), or V(akka_snapshots) with the mapping V(postgresql), if not given.
    type: str
    default: ''
  ordering:
    description:
      - V(dense) gives events numbers without holes, in the order of the archive. Offsets that readers have stored are others then.
      - V(keep) keeps the numbers of the archive, and with them the offsets and the holes.
    type: str
    choices: [dense, keep]
    default: dense
  on_conflict:
    description: Whether persistence ids that can't be taken are refused, or left as they are and told.
    type: str
    choices: [refuse, skip]
    default: refuse
  batch:
    description: Events of one transaction. Writers wait that long.
    type: int
    default: 10000
"""

EXAMPLES = r"""
- name: Bring the actors into another database
  holdfast.persistence.akka_import:
    login_db: orderdb_copy
    mapping: postgresql
    archive: actors

- name: Leave actors alone that the other database has already
  holdfast.persistence.akka_import:
    login_db: orderdb_copy
    mapping: postgresql
    archive: actors
    on_conflict: skip
"""

RETURN = r"""
inserted:
  description: Events that the journal did not have.
  type: int
  returned: success
  sample: 249
present:
  description: Events that the journal had already.
  type: int
  returned: success
  sample: 0
snapshots:
  description: Snapshots that were not there.
  type: int
  returned: success
  sample: 12
metadata:
  description: Rows of metadata that were not there.
  type: int
  returned: success
  sample: 0
skipped:
  description: Persistence ids that were left as they are, each with the reason.
  type: list
  elements: str
  returned: success
  sample: []
moved:
  description: Whether C(ordering) is another than in the archive, so that offsets which readers by tag have stored mean other events.
  type: bool
  returned: success
  sample: false
holes:
  description: Numbers of C(ordering) that no row has. A reader by tag waits about ten seconds for them at its first query.
  type: int
  returned: success
  sample: 0
lost:
  description: Ids whose newest snapshot lies above every number that the journal knows.
  type: list
  elements: str
  returned: success
  sample: []
label:
  description: Label of the archive in the catalogue.
  type: str
  returned: success
  sample: 20261130T021500Z-actors
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.events import akka, akka_load, arguments, export
from ansible_collections.holdfast.persistence.plugins.module_utils.events.akka_load import Wish
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import BATCH
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def run(module: AnsibleModule) -> dict[str, object]:
    """Import, or tell what would happen. Raises Refusal."""
    options = module.params
    with export.in_words(f"archive {options['archive']}"):
        label = export.require(options["folder"], options["archive"])
        archive, path = export.load(options["folder"], label)
    names = ("mapping", "schema", "snapshot_schema", "ordering", "on_conflict", "batch")
    wish = Wish(**{name: options[name] for name in names})
    outcome = akka_load.load(arguments.reach(options), archive, path, wish, check=module.check_mode)
    return {
        "changed": outcome.changed,
        **outcome.__dict__,
        "label": label,
        "diff": {
            "before": f"{outcome.present} events of {label}\n",
            "after": f"{outcome.present + outcome.inserted} events of {label}\n",
        },
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SHARED,
            "mapping": {"type": "str", "choices": list(akka.MAPPINGS), "default": "default"},
            "schema": {"type": "str", "default": ""},
            "snapshot_schema": {"type": "str", "default": ""},
            "ordering": {"type": "str", "choices": [akka.DENSE, akka.KEEP], "default": akka.DENSE},
            "on_conflict": {"type": "str", "choices": ["refuse", "skip"], "default": "refuse"},
            "batch": {"type": "int", "default": BATCH},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=f"The journal of {module.params['login_db']} can't take the archive: {error}")


if __name__ == "__main__":
    main()
