"""Action plugin of the module host_probe: runs it and bounds the host's clock against the controller's."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import clock


class ActionModule(ActionBase):
    """Runs the module, then reads the host's clock once more over the warm connection, which bounds it tighter."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        before = time.time()
        result.update(self._execute_module(module_name="holdfast.persistence.host_probe", task_vars=task_vars))
        after = time.time()
        if result.get("failed") or "time" not in result:
            return result
        readings = result["time"]
        bounds = clock.offset(before, after, readings["wall"], readings["elapsed"])
        low, high = clock.narrowest([bounds, *self._second_reading()])
        result["clock"] = {"low": low, "high": high}
        return result

    def _second_reading(self):
        """Return bounds from one small command; none where the shell's date knows no nanoseconds."""
        before = time.time()
        answer = self._low_level_execute_command("date +%s.%N", sudoable=False)
        after = time.time()
        try:
            return [clock.offset(before, after, float(answer["stdout"]))]
        except ValueError:
            return []
