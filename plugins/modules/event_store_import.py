#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that imports an archive into a Marten event store."""

from __future__ import annotations

DOCUMENTATION = r"""
module: event_store_import
short_description: Import an archive into a Marten event store
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Brings streams, events and tags of an archive into a store whose tables the application has made. Ids, versions, times, tenants and
    metadata stay as they are; streams are never renumbered.
  - What exists already is left as it is, so that a second run adds nothing and a killed one is finished by the next.
  - Every file is compared with its digest first. A damaged archive, a store of another identity, tenancy or partitioning, a range
    that cuts streams whose beginning the store lacks, a daemon that leads, or an application that writes (with V(preserve)) are
    refused before anything is written.
extends_documentation_fragment:
  - holdfast.persistence.events
options:
  schema:
    description: Schema that holds C(mt_events).
    type: str
    default: events
  mode:
    description:
      - V(preserve) keeps sequence numbers, and sets the sequence and C(HighWaterMark) so that no daemon skips or rewinds.
      - V(append) draws new sequence numbers, in the same order, in a store that applications and daemons continue to use.
    type: str
    choices: [preserve, append]
    default: preserve
  on_conflict:
    description: Whether streams that can't be taken are refused, or left as they are in the store and told.
    type: str
    choices: [refuse, skip]
    default: refuse
  rebuild_keys:
    description: Whether keys of an empty store are dropped and built again, all in one transaction. Needs the owner of the tables.
    type: bool
    default: false
  documents:
    description:
      - Whether projections' documents and the daemon's progress come along where the archive has them and the store has no documents.
    type: bool
    default: true
  accept_locks:
    description: Keys of advisory locks that are no daemon's.
    type: list
    elements: int
    default: []
  batch:
    description: Events of one transaction in a store that has some. Writers wait that long.
    type: int
    default: 10000
  parallel:
    description: Parts that are written at a time into an empty store.
    type: int
    default: 2
"""

EXAMPLES = r"""
- name: Bring the events of January into the archive's own database
  holdfast.persistence.event_store_import:
    login_db: orderdb
    archive: orders-january

- name: Say what an import would do
  holdfast.persistence.event_store_import:
    login_db: orderdb
    archive: orders-january
  check_mode: true
"""

RETURN = r"""
inserted:
  description: Events that the store did not have.
  type: int
  returned: success
  sample: 86
present:
  description: Events that the store had already.
  type: int
  returned: success
  sample: 0
streams:
  description: Streams that the store did not have.
  type: int
  returned: success
  sample: 21
skipped:
  description: Streams that were left as they are, each with the reason.
  type: list
  elements: str
  returned: success
  sample: []
rebuild:
  description: Projections that are past some of the imported numbers. They see these events only when they are built anew.
  type: list
  elements: str
  returned: success
  sample: []
documents:
  description: What became of projections' documents and the daemon's progress.
  type: str
  returned: success
  sample: carried
sequences:
  description: Last number that each sequence has given at least, by tenant, with V(preserve).
  type: dict
  returned: success
  sample: {'': 86}
label:
  description: Label of the archive in the catalogue.
  type: str
  returned: success
  sample: 20261130T021500Z-orders-january
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.events import arguments, export, load
from ansible_collections.holdfast.persistence.plugins.module_utils.events.target import (
    APPEND,
    BATCH,
    PRESERVE,
    REFUSE,
    SKIP,
    Wish,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def run(module: AnsibleModule) -> dict[str, object]:
    """Import, or tell what would happen. Raises Refusal."""
    options = module.params
    with export.in_words(f"archive {options['archive']}"):
        label = export.require(options["folder"], options["archive"])
        archive, path = export.load(options["folder"], label)
    names = ("schema", "mode", "on_conflict", "rebuild_keys", "documents", "batch", "parallel")
    wish = Wish(**{name: options[name] for name in names}, accept_locks=tuple(options["accept_locks"]))
    outcome = load.load(arguments.reach(options), archive, path, wish, check=module.check_mode)
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
            "schema": {"type": "str", "default": "events"},
            "mode": {"type": "str", "choices": [PRESERVE, APPEND], "default": PRESERVE},
            "on_conflict": {"type": "str", "choices": [REFUSE, SKIP], "default": REFUSE},
            "rebuild_keys": {"type": "bool", "default": False, "no_log": False},
            "documents": {"type": "bool", "default": True},
            "accept_locks": {"type": "list", "elements": "int", "default": []},
            "batch": {"type": "int", "default": BATCH},
            "parallel": {"type": "int", "default": 2},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=f"The event store of {module.params['login_db']} can't take the archive: {error}")


if __name__ == "__main__":
    main()
