# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin: install the collection's programs on a host and keep them running; see the module `program`."""

from __future__ import annotations

import json

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.programs.layout import VERSION, command_text, path_of
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.modules.program import ARGUMENTS
from ansible_collections.holdfast.persistence.plugins.plugin_utils.programs import collection

UNITS = "/etc/systemd/system"


class FailedError(Exception):
    """A module failed on the host. result: what it returned."""

    def __init__(self, result):
        super().__init__(result.get("msg", "failed"))
        self.result = result


class ActionModule(ActionBase):
    """Gathers each program's code on the controller; on the host folders are replaced, files written, units run, remains deleted."""

    def run(self, tmp=None, task_vars=None):
        super().run(tmp, task_vars)
        _spec, options = self.validate_argument_spec(ARGUMENTS)
        if options["look"] and not self._task.check_mode:
            raise AnsibleActionFail("look: true only looks, so the task needs check_mode: true")
        self._vars, self._done, self._units = task_vars, [], {}
        try:
            wishes = [wish_of(program) for program in options["programs"]]
        except Refusal as error:
            raise AnsibleActionFail(str(error)) from None
        wished = [wish for wish in wishes if wish["present"]]
        try:
            if not options["look"]:
                self._stop([wish for wish in wishes if not wish["present"]])
            found = self._call("program_folders", {"programs": [folder_wish(wish) for wish in wishes]})
            if options["look"]:
                return {"changed": False, "programs": found["programs"], "errors": []}
            self._provide(wished, found)
            if found["remains"]:
                self._call("teardown", {"units": [], "paths": found["remains"]})
        except FailedError as error:
            if options["look"]:
                return {"changed": False, "programs": [], "errors": [str(error)]}
            return {**error.result, "changed": any(result.get("changed") for result in self._done)}
        return {
            "changed": any(result.get("changed") for result in self._done),
            "programs": found["programs"],
            "called": found["called"],
            "restarted": [name for name, result in self._units.items() if "restart" in result["actions"]],
            "diff": [entry for result in self._done for entry in listed(result.get("diff"))],
        }

    def _call(self, module, arguments):
        """Run a module of the collection on the host. Raises FailedError."""
        result = self._execute_module(
            module_name=f"holdfast.persistence.{module}", module_args=arguments, task_vars=self._vars
        )
        if result.get("failed"):
            raise FailedError(result)
        self._done.append(result)
        return result

    def _provide(self, wishes, found):
        """Write what belongs to the programs, and run their units with it."""
        files = [file for wish in wishes for file in wish["files"]]
        changed = {*self._call("files", {"files": files})["changed_paths"]} if files else set()
        for wish in wishes:
            if not wish["units"]:
                continue
            arguments = unit_wish(wish)
            loaded = arguments["restart_on"]
            pending = loaded if wish["name"] in found["replaced"] else sorted(changed & {*loaded})
            self._units[arguments["name"]] = self._call("unit", {**arguments, "pending": pending})

    def _stop(self, wishes):
        """Stop what is not wished here, and delete its files."""
        units = [unit for wish in wishes for unit in wish["units"]]
        paths = [path for wish in wishes for path in wish["paths"]]
        if units or paths:
            self._call("teardown", {"units": units, "paths": paths})


def wish_of(program):
    """Return all that a program is made of on a host. Raises Refusal."""
    name = program["name"]
    settings_file = program["settings_file"] or f"/etc/holdfast/{name}.json"
    files = list(program["files"])
    if program["settings"] is not None:
        content = json.dumps(program["settings"], indent=4, sort_keys=True) + "\n"
        owner = {"owner": program["user"], "sensitive": program["sensitive"]}
        files.append({"path": settings_file, "content": content, "mode": "0600", **owner})
    if program["command"]:
        files.append({"path": program["command"], "content": command_text(name), "mode": "0755"})
    units = collection.units_of(name)
    files += [{"path": f"{UNITS}/{unit}", "content": text} for unit, text in units.items()]
    return {
        "name": name,
        "present": program["state"] == "present",
        "command": program["command"],
        "code": collection.folder_of(name) if program["state"] == "present" else {},
        "files": files,
        "units": list(units),
        "paths": [file["path"] for file in files],
    }


def folder_wish(wish):
    """Return what program_folders takes of a program."""
    commands = [wish["command"]] if wish["command"] and wish["present"] else []
    return {"name": wish["name"], "files": wish["code"], "commands": commands}


def unit_wish(wish):
    """Return what the module unit takes: of the unit that starts the others, and what it has to have loaded."""
    first, *others = wish["units"]
    loaded = [path for path in wish["paths"] if path.startswith((UNITS, "/etc/holdfast/"))]
    code = [f"{path_of(wish['name'])}/{VERSION}"]
    restart_on = loaded + code if first.endswith(".service") else [path for path in loaded if path.startswith(UNITS)]
    return {"name": first, "enabled": True, "state": "started", "restart_on": restart_on, "starts": others}


def listed(diff):
    """Return a result's diff as a list."""
    return diff if isinstance(diff, list) else [diff] if diff else []
