#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that writes all files of a service in one go."""

from __future__ import annotations

DOCUMENTATION = r"""
module: files
short_description: Write several files and folders in one task
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Brings files and folders to the given content, owner and mode. Missing parent folders are made (root, 0755).
  - Each file is written beside its place and moved into it, so that a reader, or a killed run, sees the old file or the
    new one, never a part.
  - One task for all files of a service keeps playbooks fast. Render templates with the lookup
    P(ansible.builtin.template#lookup).
options:
  files:
    description: The files and folders, made in this order.
    type: list
    elements: dict
    required: true
    suboptions:
      path:
        description: Absolute path.
        type: path
        required: true
      content:
        description: Content of the file. A path without content is a folder.
        type: str
      owner:
        description: Name of the owning user.
        type: str
        default: root
      group:
        description: Name of the owning group. The name of the user if not given.
        type: str
      mode:
        description: Permissions in octal. For files V(0644), for folders V(0755) if not given.
        type: str
      sensitive:
        description: Never show the content in a diff.
        type: bool
        default: false
      validate:
        description:
          - Command and its arguments that judges the new file before it gets its name. C(%s) stands for its path.
          - Where it fails nothing of this file is changed. Files before it in the list are in place already.
        type: list
        elements: str
attributes:
  check_mode:
    description: Says what would be written. An owner that does not exist yet counts as a difference.
    support: full
  diff_mode:
    description: Shows the lines that change, except of sensitive files.
    support: full
"""

EXAMPLES = r"""
- name: Write the configuration
  holdfast.persistence.files:
    files:
      - path: /etc/example
        owner: example
        mode: "0750"
      - path: /etc/example/example.conf
        content: "{{ lookup('ansible.builtin.template', 'example.conf.j2') }}"
        owner: example
        mode: "0640"

- name: Write a file that nobody else may read, and show no line of it
  holdfast.persistence.files:
    files:
      - path: /etc/example/password
        content: "{{ vault_example_password }}\n"
        owner: example
        mode: "0600"
        sensitive: true
"""

RETURN = r"""
changed_paths:
  description: What was written; in check mode what would be.
  type: list
  elements: str
  returned: always
  sample: [/etc/example/example.conf]
reasons:
  description: Why, by path.
  type: dict
  returned: always
  sample: {/etc/example/example.conf: [content differs]}
"""

import grp
import os
import pwd
from collections.abc import Callable

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.files.disk import read
from ansible_collections.holdfast.persistence.plugins.module_utils.files.wish import (
    Difference,
    FileWish,
    compare,
    parse_mode,
    show,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal


def to_wish(params: dict) -> FileWish:
    """Return the wish of one element of the option files. Raises Refusal for a mode that is not octal."""
    is_folder = params["content"] is None
    try:
        mode = parse_mode(params["mode"] or ("0755" if is_folder else "0644"))
    except ValueError as error:
        raise Refusal(f"{params['path']}: {error}", "Correct the option mode") from error
    owner = params["owner"]
    return FileWish(params["path"], params["content"], owner, params["group"] or owner, mode, params["sensitive"])


def ids(wish: FileWish) -> tuple[int, int]:
    """Return the numbers of owner and group. Raises Refusal where the host does not know them."""
    try:
        return pwd.getpwnam(wish.owner).pw_uid, grp.getgrnam(wish.group).gr_gid
    except KeyError as error:
        raise Refusal(
            f"{wish.path}: its owner should be {wish.owner}:{wish.group}, which this host does not know",
            "Install the package that brings this user first",
        ) from error


def write(wish: FileWish, difference: Difference, judge: Callable[[str], None]) -> None:
    """Bring one path to its wish. judge raises Refusal where the file at a path may not be used.

    Raises Refusal or OSError.
    """
    if difference.blocker:
        raise Refusal(f"{wish.path}: {difference.blocker}", "Move it away and run again")
    user, group = ids(wish)
    make_folders(os.path.dirname(wish.path))
    if wish.content is None:
        _make_folder(wish, user, group)
    elif difference.rewrite:
        replace_file(wish.path, wish.content, mode=wish.mode, uid=user, gid=group, judge=judge)
    else:
        os.chown(wish.path, user, group)
        os.chmod(wish.path, wish.mode)


def _make_folder(wish: FileWish, user: int, group: int) -> None:
    if not os.path.isdir(wish.path):
        os.mkdir(wish.path, 0o700)
    os.chown(wish.path, user, group)
    os.chmod(wish.path, wish.mode)


def judge_of(module: AnsibleModule, path: str, command: list[str] | None) -> Callable[[str], None]:
    """Return what runs the command of the option validate, if any, for a temporary file that is to become path."""

    def judge(temporary: str) -> None:
        if not command:
            return
        code, output, errors = module.run_command([argument.replace("%s", temporary) for argument in command])
        if code:
            found = f"{command[0]} refuses the new content: {(errors or output).strip()}"
            raise Refusal(f"{path}: {found}", "The file stays as it was")

    return judge


def run(module: AnsibleModule) -> dict[str, object]:
    """Compare, write where not in check mode, return the result of the module."""
    wishes = [to_wish(element) for element in module.params["files"]]
    judges = {
        wish.path: judge_of(module, wish.path, element["validate"])
        for wish, element in zip(wishes, module.params["files"], strict=True)
    }
    before = {wish.path: read(wish.path) for wish in wishes}
    differences = {wish.path: compare(wish, before[wish.path]) for wish in wishes}
    changing = [wish for wish in wishes if differences[wish.path]]
    if not module.check_mode:
        for wish in changing:
            write(wish, differences[wish.path], judges[wish.path])
    texts = [show(wish, before[wish.path], differences[wish.path]) for wish in changing]
    return {
        "changed": bool(changing),
        "changed_paths": [wish.path for wish in changing],
        "reasons": {wish.path: list(differences[wish.path].reasons) for wish in changing},
        "diff": [{"prepared": text} for text in texts],
    }


class FilesModule(AnsibleModule):
    """A module whose journal entry names the files alone.

    AnsibleModule logs a list of dictionaries as Python text, in which it does not recognize the contents it should hide.
    """

    def _log_invocation(self) -> None:
        self.log("Invoked for " + ", ".join(element["path"] for element in self.params["files"]))


def main() -> None:
    """Run the module."""
    module = FilesModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "required": True,
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "no_log": True},
                    "owner": {"type": "str", "default": "root"},
                    "group": {"type": "str"},
                    "mode": {"type": "str"},
                    "sensitive": {"type": "bool", "default": False},
                    "validate": {"type": "list", "elements": "str"},
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
