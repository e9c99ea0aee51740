#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action plugin `ask`."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ask
short_description: Ask the members of a cluster in turn until one answers
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Runs a module that only reads, with the options of each candidate in turn, until one succeeds.
  - It does not fail when none does. RV(errors) tells why each failed; a status shows it, a check judges it.
  - Nor does it fail when the host cannot be reached, and the play continues with that host.
options:
  module:
    description: Name of a module that changes nothing.
    type: str
    required: true
  options:
    description: Options of the module.
    type: dict
    default: {}
  candidates:
    description:
      - For each option in which candidates differ, the list of its values; the first values make the first candidate.
      - Without it the module runs once, with O(options).
    type: dict
    default: {}
attributes:
  check_mode:
    description: Does what the module does in check mode.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
"""

EXAMPLES = r"""
- name: Ask Patroni, whichever member answers
  holdfast.persistence.ask:
    module: holdfast.persistence.patroni_cluster_info
    options:
      ca_cert: /etc/ssl/holdfast/ca.crt
      client_cert: /etc/ssl/holdfast/postgresql.pem
    candidates:
      url: [https://198.18.7.11:8008, https://198.18.7.12:8008]
  run_once: true

- name: Show every host's status, also where a host is down
  holdfast.persistence.ask:
    module: holdfast.persistence.host_status
    options:
      units: [patroni.service]
  register: status
"""

RETURN = r"""
answered_by:
  description: Options of the candidate that answered, joined by colons. Empty when none did.
  type: str
  returned: always
  sample: https://198.18.7.12:8008
result:
  description: What the module returned, empty when no candidate answered.
  type: dict
  returned: always
  sample: {scope: orders, leader: node1, timeline: 1, paused: false, pending_restart: [], unmet: []}
errors:
  description: Why the candidates before failed.
  type: list
  elements: str
  returned: always
  sample: ["https://198.18.7.11:8008: no answer"]
"""
