#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that asks a running PostgreSQL whether it would take settings."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_settings
short_description: Check settings against what a running PostgreSQL accepts
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Compares names, units, ranges and choices with C(pg_settings) of the server on the host, and fails with every problem.
    Patroni would drop such settings with a line in its journal, or PostgreSQL would not start again.
  - Runs on a host with a server, as a system user that PostgreSQL accepts as its superuser. It changes nothing.
options:
  parameters:
    description: Names and values. A null is not judged.
    type: dict
    required: true
  extension_prefixes:
    description: Prefixes of settings of extensions that are not loaded yet. Those in C(shared_preload_libraries) need no entry.
    type: list
    elements: str
    default: []
  library_dir:
    description:
      - Folder of the libraries of the PostgreSQL on this host. Where it is given, libraries that the settings load have to be there, and
        huge pages that they insist on have to be kept by the host. That is judged where no server runs yet, too.
    type: path
    version_added: 0.2.0
  login_unix_socket:
    description: Folder of PostgreSQL's socket.
    type: path
    default: /var/run/postgresql
  login_user:
    description: User to log in as.
    type: str
    default: postgres
requirements:
  - psycopg (3) or psycopg2 on the host that runs the module
attributes:
  check_mode:
    description: It changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Refuse settings that PostgreSQL would not take
  holdfast.persistence.postgresql_settings:
    parameters:
      work_mem: 16MB
      wal_level: logical

- name: Let settings of an extension pass that is not loaded yet
  holdfast.persistence.postgresql_settings:
    parameters:
      auto_explain.log_min_duration: 1s
    extension_prefixes: [auto_explain]
"""

RETURN = r"""
checked:
  description: Whether a server answered. One that does not run yet can't be asked, which is no failure.
  type: bool
  returned: always
  sample: true
problems:
  description: What it would refuse, each with what it allows.
  type: list
  elements: str
  returned: always
  sample: ["wal_level is 'full', allowed are minimal, replica, logical"]
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.reader import read_settings
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.settings import (
    host_problems,
    parse_pages,
    problems,
)


def has_library(folder: str, library: str) -> bool:
    """Return whether the server would find a library, as its dynamic loader looks (src/backend/utils/fmgr/dfmgr.c)."""
    path = library.replace("$libdir", folder) if "/" in library else os.path.join(folder, library)
    return os.path.isfile(path) or os.path.isfile(path + ".so")


def of_host(parameters: dict[str, object], folder: str) -> list[str]:
    """Return why PostgreSQL could not start on this host."""
    with open("/proc/meminfo", encoding="utf-8") as stream:
        pages = parse_pages(stream.read())
    return list(host_problems(parameters, lambda library: has_library(folder, library), pages))


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "parameters": {"type": "dict", "required": True},
            "extension_prefixes": {"type": "list", "elements": "str", "default": []},
            "library_dir": {"type": "path"},
            "login_unix_socket": {"type": "path", "default": "/var/run/postgresql"},
            "login_user": {"type": "str", "default": "postgres"},
        },
        supports_check_mode=True,
    )
    params = module.params
    settings = read_settings(params["login_unix_socket"], params["login_user"])
    found = list(problems(params["parameters"], settings, params["extension_prefixes"])) if settings is not None else []
    if params["library_dir"]:
        found += of_host(params["parameters"], params["library_dir"])
    if found:
        msg = "Settings are refused, nothing was changed: " + "; ".join(found)
        module.fail_json(msg=msg, checked=settings is not None, problems=found)
    module.exit_json(changed=False, checked=settings is not None, problems=[])


if __name__ == "__main__":
    main()
