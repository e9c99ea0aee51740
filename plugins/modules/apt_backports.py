#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
"""Module that adds Debian's backports from the mirror a host already uses."""

from __future__ import annotations

DOCUMENTATION = r"""
module: apt_backports
short_description: Add Debian's backports from the mirror that the host already uses
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Looks for the source of the release in C(/etc/apt/sources.list) and C(/etc/apt/sources.list.d), and writes a source
    for its backports beside it, with the same mirror and key.
  - A host that has its backports already is left as it is.
  - Debian gives packages of backports the lowest priority, so only what is nowhere else comes from there.
options:
  release:
    description: Code name of the release, for example V(bookworm).
    type: str
    required: true
  path:
    description: Where the source is written.
    type: path
    default: /etc/apt/sources.list.d/holdfast-backports.sources
attributes:
  check_mode:
    description: Says whether the source would be written.
    support: full
  diff_mode:
    description: Shows the source.
    support: full
"""

EXAMPLES = r"""
- name: Add the backports
  holdfast.persistence.apt_backports:
    release: bookworm
"""

RETURN = r"""
path:
  description: File of the source; empty where another file has the backports already.
  type: str
  returned: always
"""

import contextlib
import glob
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.apt.sources import (
    Source,
    backports_of,
    has_suite,
    parse_deb822,
    parse_list,
    render,
)

APT = "/etc/apt"


def read_sources(without: str) -> list[Source]:
    """Return all sources of the host except those of the file `without`."""
    sources = []
    names = [os.path.join(APT, "sources.list"), *sorted(glob.glob(os.path.join(APT, "sources.list.d", "*")))]
    for name in names:
        if name != without and os.path.isfile(name):
            with open(name, encoding="utf-8") as stream:
                text = stream.read()
            if name.endswith(".list"):
                sources += parse_list(text)
            elif name.endswith(".sources"):
                sources += parse_deb822(text)
    return sources


def write(path: str, content: str) -> None:
    """Write the file whole or not at all, readable by all."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".new-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            os.fchmod(handle, 0o644)
            stream.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def run(module: AnsibleModule) -> dict[str, object]:
    """Compare and write; return the result of the module."""
    path, release = module.params["path"], module.params["release"]
    sources = read_sources(without=path)
    if has_suite(sources, f"{release}-backports"):
        return {"changed": False, "path": ""}
    content = render(backports_of(sources, release))
    found = ""
    if os.path.exists(path):
        with open(path, encoding="utf-8") as stream:
            found = stream.read()
    if found != content and not module.check_mode:
        write(path, content)
    diff = {"before": found, "after": content, "before_header": path, "after_header": path}
    return {"changed": found != content, "path": path, "diff": diff}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "release": {"type": "str", "required": True},
            "path": {"type": "path", "default": "/etc/apt/sources.list.d/holdfast-backports.sources"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LookupError as error:
        module.fail_json(msg=f"{error.args[0]}: add a source with its backports by hand and run again")
    except OSError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
