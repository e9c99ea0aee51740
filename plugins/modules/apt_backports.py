#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that adds Debian's backports, or another suite, from the mirror a host already uses."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_backports
short_description: Add Debian's backports, or another suite, from the mirror that the host already uses
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Looks for the source of the release in C(/etc/apt/sources.list) and C(/etc/apt/sources.list.d), and writes a source
    for its backports, or for O(suite), beside it, with the same mirror and key.
  - A host that has the suite already gets no second source.
  - Debian gives packages of backports the lowest priority, so only what is nowhere else comes from there. For any other
    suite name O(packages), or all of the host would follow it.
options:
  release:
    description: Code name of the release, for example V(bookworm).
    type: str
    required: true
  suite:
    description: Suite to add, by its code name, for example V(forky). The backports of O(release) by default.
    type: str
  packages:
    description:
      - Packages that come from the suite, whatever other suites have. All others come from there only where they are needed
        and are nowhere else. Needed for a suite that is not the backports of O(release).
    type: list
    elements: str
    default: []
  preferences:
    description: Where the priorities of O(packages) are written, before the source.
    type: path
    default: /etc/apt/preferences.d/holdfast-backports
  path:
    description: Where the source is written.
    type: path
    default: /etc/apt/sources.list.d/holdfast-backports.sources
attributes:
  check_mode:
    description: Says whether source and priorities would be written.
    support: full
  diff_mode:
    description: Shows source and priorities.
    support: full
"""

EXAMPLES = r"""
- name: Add the backports
  holdfast.persistence.apt_backports:
    release: bookworm

- name: Let Valkey alone come from the next release
  holdfast.persistence.apt_backports:
    release: trixie
    suite: forky
    packages: [valkey-server, valkey-tools]
"""

RETURN = r"""
path:
  description: File of the source; empty where another file has the suite already.
  type: str
  returned: always
  sample: /etc/apt/sources.list.d/holdfast-backports.sources
"""

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.apt import host
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import replace_file


def wishes(module: AnsibleModule) -> dict[str, str]:
    """Return the files that have to be there, by path, in the order to write them. Raises LookupError."""
    params = module.params
    suite = params["suite"] or f"{params['release']}-backports"
    return host.wishes(
        params["release"], suite, params["packages"], source=params["path"], preferences=params["preferences"]
    )


def run(module: AnsibleModule) -> dict[str, object]:
    """Compare and write; return the result of the module."""
    diffs = []
    wished = wishes(module)
    for path, content in wished.items():
        found = ""
        if os.path.exists(path):
            with open(path, encoding="utf-8") as stream:
                found = stream.read()
        if found != content:
            diffs.append({"before": found, "after": content, "before_header": path, "after_header": path})
            if not module.check_mode:
                replace_file(path, content, mode=0o644)
    source = module.params["path"]
    return {"changed": bool(diffs), "path": source if source in wished else "", "diff": diffs}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "str", "required": True},
            "suite": {"type": "str"},
            "packages": {"type": "list", "elements": "str", "default": []},
            "preferences": {"type": "path", "default": host.PREFERENCES},
            "path": {"type": "path", "default": host.SOURCE},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["suite"] not in (None, "", f"{params['release']}-backports") and not params["packages"]:
        module.fail_json(
            msg=f"suite is {params['suite']}, and packages names none: all of the host would follow it. Name them"
        )
    try:
        module.exit_json(**run(module))
    except LookupError as error:
        module.fail_json(msg=f"{error.args[0]}: add a source with the suite by hand and run again")
    except OSError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
