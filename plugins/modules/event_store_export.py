#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that exports a Marten event store, or a range of it, into an archive."""

from __future__ import annotations

DOCUMENTATION = r"""
module: event_store_export
short_description: Export a Marten event store, or a range of its events, into an archive
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Reads streams, events and tags under one snapshot, several parts at a time, and writes PostgreSQL's COPY text in zstd frames with
    a manifest that is written last. Archived and compacted streams, tenants, binary events and metadata come along.
  - A killed export continues where it ended, as far as what it had read is unchanged. An archive of the name that exists already is
    left as it is.
extends_documentation_fragment:
  - holdfast.persistence.events
options:
  schema:
    description: Schema that holds C(mt_events).
    type: str
    default: events
  cluster:
    description: Name of the cluster, for the catalogue.
    type: str
    default: ''
  since:
    description: Time from which on events are taken, by their timestamp, with an offset from UTC. From the first event if not given.
    type: str
    default: ''
  until:
    description: Time before which events are taken. To the last event if not given.
    type: str
    default: ''
  tenants:
    description: Tenants whose events are taken. All if not given.
    type: list
    elements: str
    default: []
  types:
    description: Event types that are taken, such as V(order_placed). All if not given.
    type: list
    elements: str
    default: []
  archived:
    description: Whether archived events are taken, too, or no others.
    type: str
    choices: [include, exclude, only]
    default: include
  format:
    description: V(archive) can be imported, V(jsonl) is an output of JSON lines for people and other tools.
    type: str
    choices: [archive, jsonl]
    default: archive
  documents:
    description:
      - Whether the tables of projections (C(mt_doc_*)) and the daemon's progress go with an export of the whole store. A daemon that
        builds projections anew leaves archived streams out, so that only this brings every document back.
    type: bool
    default: true
  carry:
    description: Tables called C(mt_) that this release does not know, and whose every row is taken. Without it they are refused by name.
    type: list
    elements: str
    default: []
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
- name: Export the events of January
  holdfast.persistence.event_store_export:
    login_db: orderdb
    archive: orders-january
    since: '2026-01-01T00:00:00Z'
    until: '2026-02-01T00:00:00Z'

- name: Say what the store is, without an archive
  holdfast.persistence.event_store_export:
    login_db: orderdb
    archive: orders
  check_mode: true
"""

RETURN = r"""
label:
  description: Label of the archive in the catalogue.
  type: str
  returned: when not in check mode
  sample: 20261130T021500Z-orders-january
path:
  description: Folder of the archive.
  type: str
  returned: when not in check mode
  sample: /var/lib/holdfast/backup/events/20261130T021500Z-orders-january
totals:
  description: Rows by what they are.
  type: dict
  returned: when not in check mode
  sample: {events: 86, streams: 21, side: 40}
cut_streams:
  description: Streams that begin before the range. Only a store that has their earlier events takes them.
  type: int
  returned: when not in check mode
  sample: 0
resumed_parts:
  description: Parts of a killed export that were still right.
  type: int
  returned: when not in check mode
  sample: 0
shape:
  description: What the store is, as its catalogue tells it.
  type: dict
  returned: success
  sample: {schema: events, identity: guid, tenancy: single, partitions: none, tenants: []}
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.events import arguments, export, ranges
from ansible_collections.holdfast.persistence.plugins.module_utils.events.export import Made, Order, Place
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def run(module: AnsibleModule) -> dict[str, object]:
    """Export, or tell what would be. Raises Refusal."""
    options = module.params
    names = ("since", "until", "tenants", "types", "archived")
    order = Order(
        name=options["archive"],
        schema=options["schema"],
        selection=ranges.selection(**{name: options[name] for name in names}),
        format=options["format"],
        documents=options["documents"],
        carry=tuple(options["carry"]),
        parallel=options["parallel"],
        rate=options["rate"],
        level=options["level"],
    )
    with export.in_words(f"archive {order.name}"):
        place = Place(options["folder"], options["cluster"])
        made = export.export(arguments.reach(options), place, order, check=module.check_mode)
    if not isinstance(made, Made):
        return {"changed": True, **made, "diff": {"before": "", "after": f"{order.name}: {made['events']} events\n"}}
    after = f"{made.label}: {made.archive.totals.get('events', 0)} events\n"
    return {"changed": made.fresh, **export.told(made), "diff": {"before": "" if made.fresh else after, "after": after}}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SHARED,
            "schema": {"type": "str", "default": "events"},
            "cluster": {"type": "str", "default": ""},
            "since": {"type": "str", "default": ""},
            "until": {"type": "str", "default": ""},
            "tenants": {"type": "list", "elements": "str", "default": []},
            "types": {"type": "list", "elements": "str", "default": []},
            "archived": {"type": "str", "choices": list(ranges.ARCHIVED), "default": "include"},
            "format": {"type": "str", "choices": ["archive", "jsonl"], "default": "archive"},
            "documents": {"type": "bool", "default": True},
            "carry": {"type": "list", "elements": "str", "default": []},
            "parallel": {"type": "int", "default": 2},
            "rate": {"type": "int", "default": 0},
            "level": {"type": "int", "default": 3},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=f"The event store of {module.params['login_db']} can't be exported: {error}")


if __name__ == "__main__":
    main()
