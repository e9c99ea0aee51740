# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin of the module run_lock: takes the lock and keeps it for as long as ansible-playbook lives."""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import socket
import time

from ansible import context
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.modules.run_lock import ARGUMENTS

RENEWED_AFTER = 10


class ActionModule(ActionBase):
    """Runs the module as this run; where it took the lock now, a process of its own renews it until the run is over."""

    def run(self, tmp=None, task_vars=None):
        result = super().run(tmp, task_vars)
        _spec, arguments = self.validate_argument_spec(ARGUMENTS)
        main = os.getppid()
        identity = f"{socket.gethostname()}:{main}:{started(main)}"
        arguments.update(id=identity, who=who(main))
        answer = self._note(arguments, task_vars)
        if is_dead(answer.get("holder", "")):
            answer = self._note({**arguments, "dead": answer["holder"]}, task_vars)
        if answer.get("taken"):
            self._keep(main, identity, arguments["path"])
        return {**result, **answer}

    def _note(self, arguments, task_vars):
        return self._execute_module(
            module_name="holdfast.persistence.run_lock", module_args=arguments, task_vars=task_vars
        )

    def _keep(self, main, identity, path):
        """Leave a process behind that no terminal and no signal to the run's group reaches."""
        child = os.fork()
        if child:
            os.waitpid(child, 0)
            return
        try:
            os.setsid()
            if os.fork() == 0:
                self._renew(main, identity, path)
        finally:
            os._exit(0)

    def _renew(self, main, identity, path):
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        mine = f"grep -qsF {shlex.quote(identity)} {shlex.quote(path)}"
        due = time.monotonic() + RENEWED_AFTER
        while lives(main):
            time.sleep(0.5)
            if time.monotonic() >= due:
                due = time.monotonic() + RENEWED_AFTER
                # A host that is away for a moment is asked again; one that is away for longer has let the lock go.
                with contextlib.suppress(Exception):
                    self._low_level_execute_command(f"{mine} && touch {shlex.quote(path)}")
        with contextlib.suppress(Exception):
            self._low_level_execute_command(f"{mine} && rm -f {shlex.quote(path)}")


def who(main):
    """Tell people who runs what."""
    playbooks = " ".join(os.path.basename(name) for name in context.CLIARGS.get("args", ()))
    return f"{getpass.getuser()} on {socket.gethostname()} ({playbooks}, process {main})"


def started(process):
    """Return what tells a process from a later one of the same number, empty where the system does not say."""
    try:
        with open(f"/proc/{process}/stat", encoding="utf-8", errors="replace") as stream:
            return stream.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""


def is_dead(identity):
    """Return whether a run is known to be over: one of this controller whose process is gone."""
    machine, _colon, rest = identity.partition(":")
    process, _colon, begun = rest.partition(":")
    return machine == socket.gethostname() and process.isdigit() and bool(begun) and started(int(process)) != begun


def lives(process):
    """Return whether a process of this user is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
