# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin: ask one member of a cluster after the other until one answers."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    """Runs a reading module with the options of each candidate until it succeeds; see the module `ask`."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, options = self.validate_argument_spec(
            {
                "module": {"type": "str", "required": True},
                "options": {"type": "dict", "default": {}},
                "candidates": {"type": "dict", "default": {}},
            }
        )
        errors = []
        for candidate in rows(options["candidates"]):
            name = ":".join(str(value) for value in candidate.values())
            try:
                answer = self._execute_module(
                    module_name=options["module"], module_args={**options["options"], **candidate}, task_vars=task_vars
                )
            except AnsibleConnectionFailure as error:
                answer = {"failed": True, "msg": str(error)}
            if not answer.get("failed"):
                kept = {key: value for key, value in answer.items() if not key.startswith("_") and key != "invocation"}
                return {**result, "changed": False, "answered_by": name, "result": kept, "errors": errors}
            errors.append(reason(name, answer))
        return {**result, "changed": False, "answered_by": "", "result": {}, "errors": errors}


def reason(name, answer):
    """Tell in one line why a module failed.

    Parameters: name, of the candidate, which is put in front unless the message has it; answer, what the module returned.
    Where the module could not run at all, its last line on standard error says more than Ansible's message.
    """
    said = str(answer.get("module_stderr", "")).strip().splitlines()
    message = " ".join((said[-1] if said else str(answer.get("msg", "failed"))).split())
    return message if not name or name in message else f"{name}: {message}"


def rows(candidates):
    """Turn lists of values by option into one dict for each candidate; no option at all is one candidate.

    Raises AnsibleActionFail when the lists have different lengths.
    """
    if not candidates:
        return [{}]
    if len({len(values) for values in candidates.values()}) > 1:
        lengths = ", ".join(f"{name}: {len(values)}" for name, values in candidates.items())
        raise AnsibleActionFail(f"candidates: give as many values for each option, not {lengths}")
    return [dict(zip(candidates, values, strict=True)) for values in zip(*candidates.values(), strict=True)]
