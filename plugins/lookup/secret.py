# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Lookup that makes a secret once and remembers it on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: secret
short_description: A random secret, made once, kept in a private folder on the controller
version_added: 0.1.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Returns the content of the file O(_terms) in O(dir). Where the file is missing it is made first, of mode 0600.
  - It is made only in a run in which the role P(holdfast.persistence.preflight#role) has looked at the hosts, as in C(site.yml), and has
    found no cluster that uses another one; any other run fails.
  - In check mode nothing is made; a missing secret is a text of the same length.
  - Where the folder is missing it is made too, of mode 0700 and with a C(.gitignore) that covers all of it.
  - Several processes may ask at once, all get the same secret. A killed run leaves either no file or a whole one.
options:
  _terms:
    description: Names of secrets; each is a file name.
    required: true
  dir:
    description: Folder of the secrets.
    type: path
    required: true
  length:
    description: Number of characters of a new secret, out of letters and digits.
    type: int
    default: 32
"""

EXAMPLES = r"""
- name: Use a secret
  ansible.builtin.debug:
    msg: "{{ lookup('holdfast.persistence.secret', 'etcd_root', dir=inventory_dir ~ '/.secrets') | length }}"
"""

RETURN = r"""
_raw:
  description: The secrets.
  type: list
  elements: str
"""

import contextlib
import os
import secrets
import string
import tempfile

from ansible.errors import AnsibleError
from ansible.plugins.lookup import LookupBase

ALPHABET = string.ascii_letters + string.digits
# What check mode takes for a secret that only a real run makes.
PLACEHOLDER = "MadeByTheFirstRealRun"


def read_or_make(folder: str, name: str, length: int, *, check_mode: bool = False, may_make: bool = True) -> str:
    """Return the secret `name` of `folder`, made of `length` random characters if it does not exist.

    Parameters: check_mode, true to make nothing and return a text of that length; may_make, false to refuse instead.
    Raises ValueError when the name is not a plain file name, when the file is there but empty (a truncated secret is never
    replaced silently), and when it is missing and may not be made.
    """
    if name != os.path.basename(name) or name.startswith(".") or not name:
        raise ValueError(f"{name!r} is not the name of a secret: give a file name without a folder and a leading dot")
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        if check_mode:
            return (PLACEHOLDER * length)[:length]
        if not may_make:
            raise ValueError(
                f"the file {path} is missing, and only site.yml makes secrets, after a look at the hosts: bring the folder "
                f"from the controller that has it; for a new cluster run site.yml"
            )
        _make_folder(folder)
        _write_once(path, "".join(secrets.choice(ALPHABET) for _position in range(length)))
    with open(path, encoding="utf-8") as stream:
        value = stream.read().strip()
    if not value:
        raise ValueError(f"the file {path} is empty: write the secret into it, or delete it to have a new one made")
    return value


def _make_folder(folder: str) -> None:
    if not os.path.isdir(folder):
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _write_once(os.path.join(folder, ".gitignore"), "*")


def _write_once(path: str, value: str) -> None:
    """Write a whole file or none; whoever links first wins, as link() fails where the name exists."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(value + "\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)


class LookupModule(LookupBase):
    """The lookup plugin."""

    def run(self, terms, variables=None, **kwargs):
        self.set_options(var_options=variables, direct=kwargs)
        known = variables or {}
        how = {"check_mode": known.get("ansible_check_mode", False), "may_make": "__preflight_verdict" in known}
        try:
            return [read_or_make(self.get_option("dir"), term, self.get_option("length"), **how) for term in terms]
        except (OSError, ValueError) as error:
            raise AnsibleError(f"secret: {error}") from error
