# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that makes the lines of PgBouncer's section of databases."""

from __future__ import annotations

DOCUMENTATION = r"""
name: pgbouncer_lines
short_description: Lines of PgBouncer's section of databases
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - The names that clients ask for. Those of O(_input) come first, then the read-only and session names of databases.
  - A name that a database in PostgreSQL has is never given to another one.
options:
  _input:
    description: Names with settings of their own, as C(pgbouncer_databases) of the role C(pgbouncer).
    type: list
    elements: dict
    required: true
  ports:
    description: Ports of HAProxy by target, C(read_write), C(read_only) and C(synchronous).
    type: dict
    required: true
  real:
    description: Names of the databases in PostgreSQL.
    type: list
    elements: str
    default: []
  read_only:
    description: Databases that get a second name with C(_ro).
    type: list
    elements: str
    default: []
  sessions:
    description: Databases that get a second name with C(_session).
    type: list
    elements: str
    default: []
  session_options:
    description: Options of the session pools, in PgBouncer's words.
    type: dict
    default: {}
  transaction_options:
    description: Options of all other pools, in PgBouncer's words.
    type: dict
    default: {}
  mode:
    description: Mode of pools that have none of their own.
    type: str
    default: transaction
"""

EXAMPLES = r"""
- name: Show the lines
  ansible.builtin.debug:
    msg: "{{ [] | holdfast.persistence.pgbouncer_lines(ports={'read_write': 5000}, real=['orderdb'], sessions=['orderdb']) }}"
"""

RETURN = r"""
_value:
  description: The lines.
  type: list
  elements: str
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.pgbouncer.databases import entries, lines


def pgbouncer_lines(
    declared: Iterable[Mapping[str, Any]],
    *,
    ports: Mapping[str, int],
    real: Iterable[str] = (),
    read_only: Iterable[str] = (),
    sessions: Iterable[str] = (),
    session_options: Mapping[str, Any] | None = None,
    transaction_options: Mapping[str, Any] | None = None,
    mode: str = "transaction",
) -> list[str]:
    """Return the lines; parameters as entries() and lines() of module_utils/pgbouncer/databases.py."""
    found = entries(declared, real, read_only, sessions, session_options)
    return lines(found, ports, transaction_options or {}, mode)


class FilterModule:
    """The filters of this file, by name."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return them."""
        return {"pgbouncer_lines": pgbouncer_lines}
