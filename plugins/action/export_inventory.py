# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin export_inventory: writes the inventory that would keep a running cluster; see the module of its name."""

from __future__ import annotations

import grp
import os
import pwd

import yaml
from ansible import template
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import document
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import Host
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.plan import plan
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import RoleFiles
from ansible_collections.holdfast.persistence.plugins.plugin_utils.templates import plain

# How Ansible reaches a host, but for passwords.
CONNECTION = (
    "ansible_become",
    "ansible_become_method",
    "ansible_become_user",
    "ansible_connection",
    "ansible_host",
    "ansible_port",
    "ansible_python_interpreter",
    "ansible_remote_tmp",
    "ansible_ssh_common_args",
    "ansible_ssh_private_key_file",
    "ansible_user",
)
PASSWORDS = ("ansible_password", "ansible_ssh_pass", "ansible_become_password", "ansible_become_pass")


class ActionModule(ActionBase):
    """Runs on the controller alone; the task is delegated to localhost, where the files are written."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        """Plan, and write what differs. Returns folder, changed_paths, notes and stale."""
        super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(
            {
                "folder": {"type": "path", "required": True},
                "overwrite": {"type": "bool", "default": False},
                "facts": {"type": "str", "default": "__export_facts"},
                "probe": {"type": "str", "default": "__export_probe"},
            }
        )
        folder = os.path.abspath(os.path.expanduser(arguments["folder"]))
        roles = RoleFiles(self._loader)
        try:
            hosts = read_hosts(self._loader, task_vars, arguments)
            found = plan(hosts, plain(roles.defaults), plain(roles.fixed))
            files = document.files(found, dump)
            refuse_other_content(folder, files, arguments["overwrite"])
        except (Refusal, OSError, AnsibleError) as error:
            raise AnsibleActionFail(f"Nothing was written. {error}") from None
        result = self._execute_module(
            module_name="holdfast.persistence.files", module_args={"files": wishes(folder, files)}, task_vars=task_vars
        )
        if result.get("failed"):
            return result
        stale = [os.path.join(folder, name) for name in document.NAMES if name not in files]
        stale = [path for path in stale if os.path.exists(path)]
        notes = [{"area": note.area, "kind": note.kind, "about": note.about, "text": note.text} for note in found.notes]
        result.update(folder=folder, stale=stale, notes=notes)
        if stale:
            result["warnings"] = [
                f"{path} is of an earlier inventory and no longer part of it: delete it" for path in stale
            ]
        return result


def read_hosts(loader, task_vars, arguments):
    """Return what was read of every host of the play. Raises Refusal for one that could not be looked at, and AnsibleError."""
    names = task_vars["ansible_play_hosts_all"]
    hosts = []
    for name in names:
        raw = task_vars["hostvars"].raw_get(name)
        facts, probe = raw.get(arguments["facts"]), raw.get(arguments["probe"])
        if not facts or "valkey" not in facts or not probe or "os" not in probe:
            raise Refusal(
                f"{name} could not be looked at, see the error of the task before", "Correct it, or leave the host out"
            )
        templar = template.Templar(loader=loader, variables={**raw, "hostvars": task_vars["hostvars"]})
        connection = {variable: templar.template(raw[variable]) for variable in CONNECTION if variable in raw}
        hosts.append(
            Host(
                name=str(name),
                facts=plain(facts),
                memory=int(probe["memory_total_mib"] if facts.get("patroni") else probe["memory_mib"]),
                cpus=int(probe["cpus"]),
                codename=str(probe["os"]["codename"]),
                addresses=tuple(str(each["address"]) for each in probe["interfaces"]),
                connection={
                    **plain({key: value for key, value in connection.items() if value not in ("", None)}),
                    **{variable: "" for variable in PASSWORDS if raw.get(variable)},
                },
            )
        )
    return hosts


def refuse_other_content(folder, files, overwrite):
    """Refuse a folder with something else in it. Raises Refusal."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise Refusal(f"{folder} is a file, and a folder is wanted", "Give another one as export_inventory_dir")
    if overwrite or not os.path.isdir(folder) or not os.listdir(folder):
        return
    for name, content in files.items():
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as stream:
                same = stream.read() == content
        except FileNotFoundError:
            same = False
        if not same:
            raise Refusal(
                f"{folder} has something in it that is not this inventory ({name} would change)",
                "Give an empty folder as export_inventory_dir, or replace the files by export_inventory_overwrite=true",
            )


def dump(value):
    """Return YAML of a value."""
    return yaml.safe_dump(plain(value), sort_keys=False, width=140, allow_unicode=True)


def wishes(folder, files):
    """Return the argument of the module `files`: everything is the caller's own."""
    user = pwd.getpwuid(os.getuid()).pw_name
    own = {"owner": user, "group": grp.getgrgid(os.getgid()).gr_name}
    folders = sorted({"", *(os.path.dirname(name) for name in files), *(["group_vars"] if len(files) > 1 else [])})
    found = [{"path": os.path.join(folder, name).rstrip("/"), **own, "mode": "0755"} for name in folders]
    return found + [
        {"path": os.path.join(folder, name), "content": content, **own, "mode": "0644"}
        for name, content in files.items()
    ]
