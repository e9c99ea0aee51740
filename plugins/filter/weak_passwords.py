# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Filter that tells which passwords are too weak."""

from __future__ import annotations

DOCUMENTATION = r"""
name: weak_passwords
short_description: Find weak passwords without showing them
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Returns one text for each password that is empty, short, of few different characters, or that clients may read in different ways.
options:
  _input:
    description: Passwords by a name that the reader knows.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Refuse weak passwords
  ansible.builtin.assert:
    that: dict([['vault_admin', vault_admin]]) | holdfast.persistence.weak_passwords | length == 0
"""

RETURN = r"""
_value:
  description: What is wrong.
  type: list
  elements: str
  sample: [vault_admin is empty]
"""

from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.variables import secret_fault


def weak_passwords(passwords):
    """Return what is wrong with each."""
    faults = {name: fault(name, password) for name, password in passwords.items()}
    return [f"{name}: found {found}" for name, found in faults.items() if found]


def fault(name, password):
    """Return what is wrong with one password: what the preflight refuses, and what clients read in different ways."""
    text = str(password)
    if not text.isascii() or any(ord(character) < 32 for character in text):
        return "characters that are not plain ASCII"
    return secret_fault(password, [name])


class FilterModule:
    """The filter plugin."""

    def filters(self):
        """Return the filters by name."""
        return {"weak_passwords": weak_passwords}
