#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that stops units and deletes files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: teardown
short_description: Stop units and delete files permanently
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Stops and disables units in the order given, then deletes paths with all that is in them.
  - What is not there is no error, so it can be repeated, also after it was killed in the middle.
  - Folders that belong to the system are refused, and folders that have a file system mounted inside them.
    A folder that is itself a mount point is emptied and stays.
  - Symbolic links are deleted, what they lead to is not.
options:
  units:
    description: Full names of systemd units.
    type: list
    elements: str
    default: []
  paths:
    description: Absolute paths of files and folders.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    description: Says what would be stopped and deleted.
    support: full
  diff_mode:
    description: Lists what is stopped and deleted, with number of files and bytes.
    support: full
"""

EXAMPLES = r"""
- name: Remove PgBouncer
  holdfast.persistence.teardown:
    units: [pgbouncer.service]
    paths:
      - /etc/pgbouncer/pgbouncer.ini
      - /etc/systemd/system/pgbouncer.service.d/holdfast.conf

- name: Say what the removal of HAProxy would take away
  holdfast.persistence.teardown:
    units: [haproxy.service]
    paths: [/etc/haproxy/hold.lua]
  check_mode: true
  diff: true
"""

RETURN = r"""
stopped:
  description: Units that were stopped.
  type: list
  elements: str
  returned: success
  sample: [pgbouncer.service]
disabled:
  description: Units that were disabled.
  type: list
  elements: str
  returned: success
  sample: [pgbouncer.service]
removed:
  description: Paths that were deleted or emptied.
  type: list
  elements: str
  returned: success
  sample: [/etc/pgbouncer/pgbouncer.ini]
"""

import os
import shutil

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusals
from ansible_collections.holdfast.persistence.plugins.module_utils.teardown import (
    Unit,
    check_paths,
    describe,
    parse_units,
)

PROPERTIES = "Id,LoadState,ActiveState,UnitFileState"


def systemctl(module: AnsibleModule, *arguments: str) -> str:
    """Return the output of systemctl; its failure ends the module."""
    _code, out, _err = module.run_command([module.get_bin_path("systemctl", required=True), *arguments], check_rc=True)
    return out


def read_units(module: AnsibleModule, names: list[str]) -> list[Unit]:
    """Return the state of the units, in the order of names."""
    if not names:
        return []
    found = parse_units(systemctl(module, "show", f"--property={PROPERTIES}", *names))
    return [found[name] for name in names if name in found]


def read_mounts() -> list[str]:
    """Return the mount points of this host (man 5 proc: the second field, with octal escapes)."""
    with open("/proc/self/mounts", "rb") as stream:
        return [os.fsdecode(line.split()[1].decode("unicode_escape").encode("latin-1")) for line in stream]


def there(path: str) -> bool:
    """Whether there is something to delete: an empty mount point is none."""
    if not os.path.lexists(path):
        return False
    return not os.path.ismount(path) or bool(os.listdir(path))


def measure(path: str) -> tuple[int, int]:
    """Return number and bytes of the files at a path."""
    if os.path.islink(path) or not os.path.isdir(path):
        return 1, os.lstat(path).st_size
    sizes = [size(os.path.join(folder, name)) for folder, _folders, names in os.walk(path) for name in names]
    return len(sizes), sum(sizes)


def size(path: str) -> int:
    """Return the bytes of a file, 0 for one that a running server has just deleted."""
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def remove(path: str) -> None:
    """Delete a file or a folder; a mount point is emptied. Raises OSError."""
    if os.path.islink(path) or not os.path.isdir(path):
        os.unlink(path)
    elif os.path.ismount(path):
        for name in os.listdir(path):
            remove(os.path.join(path, name))
    else:
        shutil.rmtree(path)


def remove_empty_folder(path: str) -> None:
    """Delete the folder of drop-ins of a unit once the last drop-in is gone."""
    folder = os.path.dirname(path)
    if folder.endswith(".d") and os.path.dirname(folder) == "/etc/systemd/system" and not os.listdir(folder):
        os.rmdir(folder)


def tear_down(module: AnsibleModule, units: list[Unit], paths: list[str]) -> None:
    """Stop, disable, delete."""
    for unit in units:
        if unit.runs:
            systemctl(module, "stop", unit.name)
        if unit.starts_at_boot:
            systemctl(module, "disable", unit.name)
    for path in paths:
        remove(path)
        remove_empty_folder(path)
    if any(path.startswith("/etc/systemd/") for path in paths):
        systemctl(module, "daemon-reload")
    failed = [unit.name for unit in units if unit.active == "failed"]
    if failed:
        systemctl(module, "reset-failed", *failed)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "units": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        wished = check_paths(module.params["paths"], read_mounts())
    except Refusals as error:
        module.fail_json(msg=f"Nothing was stopped or deleted: {error}")
    units = [unit for unit in read_units(module, module.params["units"]) if unit.load != "not-found" or unit.runs]
    paths = [path for path in wished if there(path)]
    before = describe(units, {path: measure(path) for path in paths}) if module._diff else ""
    result = {
        "changed": bool(paths) or any(unit.runs or unit.starts_at_boot for unit in units),
        "stopped": [unit.name for unit in units if unit.runs],
        "disabled": [unit.name for unit in units if unit.starts_at_boot],
        "removed": paths,
        "diff": {"before": before, "after": "", "before_header": "on this host", "after_header": "nothing of it"},
    }
    if not module.check_mode:
        try:
            tear_down(module, units, paths)
        except OSError as error:
            module.fail_json(msg=f"{error.filename}: {error.strerror}: run this again once that is repaired", **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
