#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that exports a journal of Akka.NET with its snapshots into an archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: akka_export
short_description: Export journal, tags, metadata and snapshots of Akka.NET into an archive
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Reads journal and snapshots under one snapshot of PostgreSQL, so that they belong together, and writes PostgreSQL's COPY text in zstd
    frames with a manifest that is written last. Rows that are flagged as deleted come along, since they keep an actor's number.
  - For Akka.Persistence.Sql in both mappings, and for Akka.Persistence.PostgreSql, whose tables are those of the mapping V(postgresql).
extends_documentation_fragment:
  - holdfast.persistence.events
options:
  mapping:
    description: The table mapping of the application.
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
  cluster:
    description: Name of the cluster, for the catalogue.
    type: str
    default: ''
  parallel:
    description: Parts that are read at a time.
    type: int
    default: 2
  rate:
    description: Bytes a second that are written at most. No limit where V(0).
    type: int
    default: 0
  level:
    description: Level of zstd, a number from 1 to 19.
    type: int
    default: 3
"""

EXAMPLES = r"""
- name: Export the actors of an application
  holdfast.persistence.akka_export:
    login_db: orderdb
    mapping: postgresql
    archive: actors

- name: Say what the journal is, without an archive
  holdfast.persistence.akka_export:
    login_db: orderdb
    mapping: postgresql
    archive: actors
  check_mode: true
"""

RETURN = r"""
label:
  description: Label of the archive in the catalogue.
  type: str
  returned: when not in check mode
  sample: 20261130T021500Z-actors
path:
  description: Folder of the archive.
  type: str
  returned: when not in check mode
  sample: /var/lib/holdfast/backup/events/20261130T021500Z-actors
totals:
  description: Rows by what they are.
  type: dict
  returned: when not in check mode
  sample: {journal: 249, snapshots: 12, tags: 249}
resumed_parts:
  description: Parts of a killed export that were still right.
  type: int
  returned: when not in check mode
  sample: 0
shape:
  description:
    - What the journal is. C(lost) names ids whose newest snapshot lies above every number that the journal knows. Such an actor
      recovers, and writes numbers again that it has used.
  type: dict
  returned: success
  sample: {mapping: postgresql, schema: akka_journal, snapshot_schema: akka_snapshots, lost: []}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.events import akka, akka_export, arguments, export
from ansible_collections.holdfast.persistence.plugins.module_utils.events.export import Made, Order, Place
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def run(module: AnsibleModule) -> dict[str, object]:
    """Export, or tell what would be. Raises Refusal."""
    options = module.params
    schema, snapshot_schema = akka.schemas(options["mapping"], options["schema"], options["snapshot_schema"])
    order = Order(
        name=options["archive"],
        schema=schema,
        parallel=options["parallel"],
        rate=options["rate"],
        level=options["level"],
        more={"mapping": options["mapping"], "snapshot_schema": snapshot_schema},
    )
    with export.in_words(f"archive {order.name}"):
        place = Place(options["folder"], options["cluster"])
        made = akka_export.export(arguments.reach(options), place, order, check=module.check_mode)
    if not isinstance(made, Made):
        return {"changed": True, **made, "diff": {"before": "", "after": f"{order.name}: {made['events']} events\n"}}
    after = f"{made.label}: {made.archive.totals.get('journal', 0)} events\n"
    return {"changed": made.fresh, **export.told(made), "diff": {"before": "" if made.fresh else after, "after": after}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SHARED,
            "mapping": {"type": "str", "choices": list(akka.MAPPINGS), "default": "default"},
            "schema": {"type": "str", "default": ""},
            "snapshot_schema": {"type": "str", "default": ""},
            "cluster": {"type": "str", "default": ""},
            "parallel": {"type": "int", "default": 2},
            "rate": {"type": "int", "default": 0},
            "level": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=f"The journal of {module.params['login_db']} can't be exported: {error}")


if __name__ == "__main__":
    main()
