# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin of the module host_probe: runs it and bounds the host's clock against the controller's."""

from __future__ import annotations

import time

from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import clock


class ActionModule(ActionBase):
    """Runs the module, then reads the host's clock once more over the warm connection, which bounds it tighter."""

    def run(self, tmp=None, task_vars=None):
        """Run the module and add `clock`; where the controller's own clock was set meanwhile, null."""
        result = super().run(tmp, task_vars)
        before = time.time()
        result.update(self._execute_module(module_name="holdfast.persistence.host_probe", task_vars=task_vars))
        after = time.time()
        if result.get("failed") or "time" not in result:
            return result
        readings = result["time"]
        known = [
            *_bounds(before, after, readings["wall"], readings["elapsed"]),
            *self._second_reading(),
        ]
        low, high = clock.narrowest(known) if known else (None, None)
        result["clock"] = {"low": low, "high": high} if known else None
        return result

    def _second_reading(self):
        """Return bounds from one small command; none where the shell's date knows no nanoseconds."""
        before = time.time()
        answer = self._low_level_execute_command("date +%s.%N", sudoable=False)
        after = time.time()
        try:
            first = float(answer["stdout"])
        except ValueError:
            return []
        return _bounds(before, after, first)


def _bounds(before, after, first, elapsed=0.0):
    """Return a list of one pair of bounds; of none if the controller's clock went back between the readings."""
    try:
        return [clock.offset(before, after, first, elapsed)]
    except ValueError:
        return []
