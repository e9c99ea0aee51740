"""Action plugin: ask one member of a cluster after the other until one answers."""

from __future__ import annotations

from ansible.errors import AnsibleActionFail
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
            answer = self._execute_module(
                module_name=options["module"], module_args={**options["options"], **candidate}, task_vars=task_vars
            )
            name = ":".join(str(value) for value in candidate.values())
            if not answer.get("failed"):
                kept = {key: value for key, value in answer.items() if not key.startswith("_") and key != "invocation"}
                return {**result, "changed": False, "answered_by": name, "result": kept, "errors": errors}
            errors.append(f"{name}: {answer.get('msg', 'failed')}" if name else str(answer.get("msg", "failed")))
        return {**result, "changed": False, "answered_by": "", "result": {}, "errors": errors}


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
