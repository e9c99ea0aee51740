#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that replaces the folders of the collection's programs, each as a whole."""

from __future__ import annotations

DOCUMENTATION = r"""
module: program_folders
short_description: Replace the folders of the collection's programs, each as a whole
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - The action M(holdfast.persistence.program) runs this module on the host with the code that it has gathered. Use that action.
  - C(/usr/local/lib/holdfast/programs/NAME) is a symbolic link to a build beside it. A new build is written whole, then the link is
    moved to it, so that a start, or a killed run, finds the old program or the new one. What belongs to no build in use is deleted.
  - Python's compiled code is made with a build, so that programs of other users than root start as fast.
options:
  programs:
    description: The programs.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Name of the program.
        type: str
        required: true
      files:
        description: Content of each file by its path below the folder. Without files the program is deleted.
        type: dict
        default: {}
      commands:
        description: Paths at which the program is called and that are not left over from an earlier release.
        type: list
        elements: path
        default: []
attributes:
  check_mode:
    description: Says what would be replaced.
    support: full
  diff_mode:
    description: Shows the lines that change.
    support: full
"""

EXAMPLES = r"""
- name: Install a program of one file
  holdfast.persistence.program_folders:
    programs:
      - name: example
        files:
          __main__.py: print("example")
          VERSION: 0.2.0

- name: See whether it is the build that it should be
  holdfast.persistence.program_folders:
    programs:
      - name: example
        files:
          __main__.py: print("example")
          VERSION: 0.2.0
  check_mode: true
  register: found
"""

RETURN = r"""
programs:
  description:
    - How each program that has files was found. C(state) is V(current), V(missing), V(outdated) (another build) or V(altered).
    - C(version) and C(wanted) are what its file VERSION holds and should hold, C(found) says it in words.
  type: list
  elements: dict
  returned: always
  sample: [{"name": "patroni-guard", "state": "outdated", "version": "0.1.0 1f0c52bb9d1e", "wanted": "0.2.0 77aa0c9b2f3e",
    "found": "version 0.1.0 1f0c52bb9d1e"}]
replaced:
  description: Names of the programs that were installed or deleted; in check mode those that would be.
  type: list
  elements: str
  returned: always
  sample: [patroni-guard]
remains:
  description: Files and folders of an earlier release that nothing uses once these programs run from their folders.
  type: list
  elements: str
  returned: always
  sample: [/usr/local/lib/holdfast/ansible_collections]
called:
  description: The same, once no unit of another name starts one of them any more.
  type: list
  elements: str
  returned: always
  sample: [/usr/local/lib/holdfast/holdfast-backup]
"""

import compileall
import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import asdict, replace
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders, read_text, sync
from ansible_collections.holdfast.persistence.plugins.module_utils.files.disk import read
from ansible_collections.holdfast.persistence.plugins.module_utils.files.wish import Found
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.folder import (
    FILE_MODE,
    Build,
    diff_of,
    differences,
    state_of,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import FOLDER, path_of
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.remains import (
    CODE,
    PLACES,
    Old,
    old_paths,
    remains_of,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

FOLDER_MODE = 0o755
UNITS = "/etc/systemd/system"
COMPILED = "__pycache__"


def read_build(name: str) -> Build:
    """Return what there is of a program."""
    path = path_of(name)
    target = os.readlink(path) if os.path.islink(path) else ""
    own = f".{name}."
    beside = sorted(entry for entry in os.listdir(FOLDER) if entry.startswith(own)) if os.path.isdir(FOLDER) else []
    others = tuple(entry for entry in beside if entry != target)
    if os.path.lexists(path) and not target:
        return Build(others=others, blocker=f"{path} is not a symbolic link: move it away and run again")
    if target not in beside:
        return Build(others=others)
    return Build(exists=True, files=read_files(path), others=others)


def read_files(path: str) -> dict[str, Found]:
    """Return the files of a build by relative path, without Python's compiled code."""
    found: dict[str, Found] = {}
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != COMPILED]
        found |= {os.path.relpath(os.path.join(folder, name), path): read(os.path.join(folder, name)) for name in names}
    return found


def install(name: str, files: Mapping[str, str]) -> None:
    """Write a new build and move the program's link to it. Raises OSError, after which the old one is in place."""
    make_folders(FOLDER, FOLDER_MODE)
    build = tempfile.mkdtemp(prefix=f".{name}.", dir=FOLDER)
    try:
        write_files(build, files)
        compileall.compile_dir(build, quiet=2, stripdir=build, prependdir=path_of(name))
        # Whatever the umask is: services of other users read them, too.
        for folder, _folders, names in os.walk(build):
            os.chmod(folder, FOLDER_MODE)
            for each in names:
                os.chmod(os.path.join(folder, each), FILE_MODE)
            sync(folder)
        link = f"{build}.link"
        os.symlink(os.path.basename(build), link)
        os.replace(link, path_of(name))
    except BaseException:
        shutil.rmtree(build)
        raise
    sync(FOLDER)


def write_files(build: str, files: Mapping[str, str]) -> None:
    """Write the files of a build, each on disk."""
    for relative, content in files.items():
        path = os.path.join(build, relative)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), FILE_MODE)
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


def clean(name: str) -> None:
    """Delete what belongs to no build in use."""
    for entry in read_build(name).others:
        path = os.path.join(FOLDER, entry)
        if os.path.islink(path):
            os.unlink(path)
        else:
            shutil.rmtree(path)


def read_old(names: Collection[str]) -> Old:
    """Return what an earlier release may have left. The units of these programs are about to be written anew."""
    files, code = {}, []
    for place in filter(os.path.isdir, PLACES):
        for entry in os.scandir(place):
            if entry.is_file(follow_symlinks=False):
                files[entry.path] = CODE in read_text(entry.path)
        if os.path.isdir(f"{place}/{CODE}"):
            code.append(place)
    possible = old_paths(names) & set(files)
    texts = [read_text(path) for path in glob.glob(f"{UNITS}/*.service") if stem(path) not in names] if possible else []
    words = {word for text in texts for word in text.split()}
    return Old(files, code, possible & words)


def stem(path: str) -> str:
    """Return the name of a unit file without its type."""
    return os.path.basename(path).rpartition(".")[0]


def needs_change(name: str, files: Mapping[str, str], build: Build) -> bool:
    """Return whether a program is not as wished."""
    if files:
        return not build.exists or bool(build.others) or bool(differences(path_of(name), files, build))
    return build.exists or bool(build.others) or os.path.islink(path_of(name))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, replace where not in check mode, return the result of the module. Raises Refusal and OSError."""
    wishes = {element["name"]: element["files"] for element in module.params["programs"]}
    builds = {name: read_build(name) for name in wishes}
    if blockers := [build.blocker for build in builds.values() if build.blocker]:
        raise Refusal(f"{'; '.join(blockers)}. Nothing was changed.")
    changing = [name for name, files in wishes.items() if needs_change(name, files, builds[name])]
    states = [state_of(name, path_of(name), files, builds[name]) for name, files in wishes.items() if files]
    commands = [path for element in module.params["programs"] for path in element["commands"]]
    old = read_old(wishes)
    remains = remains_of(wishes, commands, old)
    later = [path for path in remains_of(wishes, commands, replace(old, called=())) if path not in remains]
    if not module.check_mode:
        for name in changing:
            if wishes[name]:
                if differences(path_of(name), wishes[name], builds[name]) or not builds[name].exists:
                    install(name, wishes[name])
            elif os.path.islink(path_of(name)):
                os.unlink(path_of(name))
            clean(name)
    return {
        "changed": bool(changing),
        "programs": [asdict(state) for state in states],
        "replaced": changing,
        "remains": remains,
        "called": later,
        "diff": [{"prepared": diff_of(path_of(name), wishes[name], builds[name])} for name in changing],
    }


class FoldersModule(AnsibleModule):
    """A module whose journal entry names the programs alone, not their code."""

    def _log_invocation(self) -> None:
        self.log("Invoked for " + ", ".join(element["name"] for element in self.params["programs"]))


def main() -> None:
    """Run the module."""
    module = FoldersModule(
        argument_spec={
            "programs": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "name": {"type": "str", "required": True},
                    "files": {"type": "dict", "default": {}},
                    "commands": {"type": "list", "elements": "path", "default": []},
                },
            },
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except (Refusal, OSError) as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
