#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that configures all Valkey instances of a host and applies what the servers take while they run."""

from __future__ import annotations

DOCUMENTATION = r"""
module: valkey_config
short_description: Configure the Valkey instances of a host, live where the servers allow it
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Writes the configuration file of each instance, the ACL file that they share and their data folders.
  - Brings running servers to it by C(CONFIG SET) and C(ACL LOAD); a certificate that is newer on disk than in the
    server is loaded again. No client is disconnected by any of it.
  - Nothing is restarted. What only a restart can bring about is returned in RV(restart_needed).
  - Settings are compared with the running server itself, so that a run that was killed at any point, or somebody's
    C(CONFIG SET), is seen and completed by the next run. A server gets its settings before its file does, so a value
    that the server refuses never reaches the file that it starts from.
  - It talks to the servers through their Unix sockets (directive C(unixsocket) of O(config)), so it needs no
    certificate.
options:
  instances:
    description: The instances of this host, all of them.
    type: list
    elements: dict
    required: true
    suboptions:
      port:
        description: Port for clients; it also names unit, files and data folder. The cluster bus takes this plus 10000.
        type: int
        required: true
      maxmemory:
        description:
          - Memory for data, as V(2gb), V(512mb) or bytes. Without it the instance takes its part of O(memory_fraction).
        type: str
      settings:
        description: Settings of this instance alone, they win over O(settings).
        type: dict
        default: {}
      weight:
        description: Not used here; M(holdfast.persistence.valkey_cluster) shares the slots by it.
        type: float
      role:
        description: Not used here; M(holdfast.persistence.valkey_cluster) prefers this role for the instance.
        type: str
        choices: [primary, replica]
      slots:
        description: Not used here; slots that M(holdfast.persistence.valkey_cluster) gives to the instance.
        type: str
      state:
        description: Not used here; M(holdfast.persistence.valkey_cluster) takes an absent instance out of the cluster.
        type: str
        choices: [present, absent]
  config:
    description:
      - Text of the configuration that the instances share.
      - C({port}) and C({bus_port}) stand for an instance's own numbers, in all settings.
      - C({since 9.0:words}) stands for the words where the instance's server is of that version or later, else for nothing.
    type: str
    required: true
  settings:
    description: Settings that are added to O(config), where they win. Booleans become C(yes) and C(no).
    type: dict
    default: {}
  acl:
    description:
      - Text of the ACL file. It should hold hashes of passwords, not passwords.
      - C({since 9.0:words}) as in O(config), by the oldest server that runs, as all load the same file.
      - Its path is directive C(aclfile) of O(config).
    type: str
    required: true
  username:
    description: ACL user that this module logs in as.
    type: str
    default: admin
  password:
    description: Password of O(username).
    type: str
    required: true
  previous_passwords:
    description: Passwords that O(username) had before; tried where the server does not know O(password) yet.
    type: list
    elements: str
    default: []
  replication_username:
    description: ACL user that replicas log in as at their primary.
    type: str
    default: replication
  replication_password:
    description: Password of O(replication_username).
    type: str
    required: true
  version:
    description:
      - Version of the servers where none runs and none is installed, as in check mode on a bare host.
      - A running server's own version counts first, then that of the program C(valkey-server).
    type: str
    default: ""
  memory_fraction:
    description: Part of the host's memory that the data of all instances together may take.
    type: float
    default: 0.6
  config_dir:
    description: Folder of the configuration files, named C(valkey-PORT.conf).
    type: path
    default: /etc/valkey
  run_dir:
    description: Folder where this module remembers what running servers have loaded; emptied at boot.
    type: path
    default: /run/holdfast/valkey
  owner:
    description: User that the servers run as.
    type: str
    default: valkey
  group:
    description: Group that the servers run as.
    type: str
    default: valkey
attributes:
  check_mode:
    description: Says what would be written, set live and need a restart. Works where nothing is installed yet.
    support: full
  diff_mode:
    description: Shows files and live settings before and after, without secrets.
    support: full
seealso:
  - module: holdfast.persistence.unit
"""

EXAMPLES = r"""
- name: Configure two instances
  holdfast.persistence.valkey_config:
    instances:
      - port: 7001
      - port: 7002
        maxmemory: 2gb
    config: "{{ lookup('ansible.builtin.template', 'valkey.conf.j2') }}"
    acl: "{{ lookup('ansible.builtin.template', 'users.acl.j2') }}"
    password: "{{ valkey_admin_password }}"
    replication_password: "{{ valkey_replication_password }}"
  register: valkey_configured

- name: Say what would be set live and what needs a restart
  holdfast.persistence.valkey_config:
    instances:
      - port: 7001
    config: "{{ lookup('ansible.builtin.template', 'valkey.conf.j2') }}"
    settings: {maxclients: 20000}
    acl: "{{ lookup('ansible.builtin.template', 'users.acl.j2') }}"
    password: "{{ valkey_admin_password }}"
    replication_password: "{{ valkey_replication_password }}"
  check_mode: true
"""

RETURN = r"""
instances:
  description: What was found and done, one entry an instance; in check mode what would be done.
  type: list
  elements: dict
  returned: always
  contains:
    port:
      description: Port of the instance.
      type: int
    running:
      description: Whether the server runs.
      type: bool
    maxmemory:
      description: Memory for data in bytes.
      type: int
    live:
      description: Names of the settings that were set live.
      type: list
      elements: str
    restart:
      description:
        - Names of the settings that wait for a restart; C(program) where the server's program was replaced on disk, as by
          an upgrade of its package.
      type: list
      elements: str
    loaded:
      description: Files that the running server was made to load again.
      type: list
      elements: str
  sample:
    - {port: 7001, running: true, maxmemory: 1073741824, live: [maxmemory], restart: [], loaded: []}
restart_needed:
  description: Ports of the running instances that need a restart.
  type: list
  elements: int
  returned: always
  sample: [7002]
running:
  description: Whether all instances run.
  type: bool
  returned: always
  sample: true
"""

import grp
import os
import pwd
import re
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import read_text, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host import steps
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.running import Server, digest
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.steps import Found, Running, Step


def total_memory() -> int:
    """Return the bytes of memory that this host may use: its own, or less where its control group is limited."""
    with open("/proc/meminfo", encoding="ascii") as stream:
        total = int(next(line for line in stream if line.startswith("MemTotal:")).split()[1]) * 1024
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = read_text(path).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def installed_version(module: AnsibleModule) -> str:
    """Return the version of the program on disk, nothing where it is not installed."""
    program = module.get_bin_path("valkey-server")
    if program is None:
        return ""
    _code, output, _errors = module.run_command([program, "--version"], check_rc=True)
    found = re.search(r" v=(\S+)", output)
    return found[1] if found else ""


class Instance:
    """One instance on this host: its server, if that runs, what it shall be, and what was done.

    Parameters: params, the module's; template; installed, the version on disk. Raises Refusal.
    """

    def __init__(self, params: Mapping[str, Any], template: steps.Template, installed: str) -> None:
        self.wish = template.wish(installed)
        try:
            self._server: Server | None = Server(
                template.port,
                self.wish.settings["unixsocket"],
                params["run_dir"],
                params["username"],
                [params["password"], *params["previous_passwords"]],
            )
            self.wish = template.wish(self._server.version)
        except ConnectionRefusedError:
            self._server = None
        self.version = self._server.version if self._server else ""
        self.change = steps.Change()
        self.live: dict[str, str] = {}
        self.restart: list[str] = []
        self._loaded: list[str] = []
        self._digests: dict[str, str] = {}

    @property
    def loaded(self) -> list[str]:
        """Files that the server was made to load again, in check mode those that it would."""
        return [*self._loaded, *self.change.stale]

    def look(self, acl: str) -> Found:
        """Return what stands here, and plan what becomes of it. acl: the wished users. Raises Refusal."""
        found = Found(read_text(self.wish.path), os.path.isdir(self.wish.settings["dir"]), self._running(acl))
        self.change = steps.change(self.wish, found)
        self.live, self.restart = dict(self.change.live), list(self.change.restart)
        return found

    def _running(self, acl: str) -> Running | None:
        if self._server is None:
            return None
        server, stale = self._server, []
        for path in self.wish.tls_files:
            if os.path.exists(path):
                with open(path, "rb") as stream:
                    content = stream.read()
                self._digests[path] = digest(content)
                stale += [] if server.has_loaded(path, content) else [path]
        return Running(
            version=server.version,
            live=server.settings(dict(self.wish.settings)),
            removed=tuple(server.memory.removed),
            outdated=server.outdated,
            stale=tuple(stale),
            acl_loaded=server.has_loaded(self.wish.settings["aclfile"], acl)
            and server.memory.acl in ("", server.acl_digest()),
            filled=server.filled(),
        )

    def expect(self, step: Step) -> None:
        """Note what a step would load, for check mode."""
        if step.verb == steps.LOAD_ACL:
            self._loaded.append(step.path)

    def do(self, step: Step) -> None:
        """Do a step at the running server. Raises Refusal."""
        server = self._server
        if server is None:
            return
        if step.verb == steps.LOAD_ACL:
            self._loaded += [step.path] if server.load_acl() else []
        elif step.verb == steps.KNOW_ACL:
            server.memory.files[step.path], server.memory.acl = digest(step.text), server.acl_digest()
        elif step.verb == steps.LEFT:
            server.memory.removed = list(step.names)
            server.remember()
        elif step.verb == steps.SET:
            self._set(server, step.settings)
        elif step.verb == steps.LOADED:
            server.memory.files.update(self._digests)
            server.remember()

    def _set(self, server: Server, settings: Mapping[str, str]) -> None:
        """Set what can be set, and verify it by reading it back."""
        refused = server.set_live(dict(settings))
        for name in refused:
            self.live.pop(name, None)
        self.restart = sorted({*self.restart, *refused})
        if self.live:
            steps.check_set(self.wish, list(self.live), server.settings(dict(self.wish.settings)))

    def result(self) -> dict[str, Any]:
        """Return the entry of the module's result."""
        return {
            "port": self.wish.port,
            "running": self._server is not None,
            "maxmemory": self.wish.maxmemory,
            "live": sorted(self.live),
            "restart": self.restart,
            "loaded": self.loaded,
        }

    def diff(self) -> dict[str, str]:
        """Return what a diff shows of the running server."""
        return steps.live_diff(self.wish, self.live, self.change.before, self.loaded)

    def close(self) -> None:
        """Close the connection."""
        if self._server:
            self._server.close()


class Host:
    """This host's files and folders."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module

    def ids(self) -> tuple[int, int]:
        """Return the numbers of the servers' user and group. Raises Refusal if they are not there."""
        params = self._module.params
        try:
            return pwd.getpwnam(params["owner"]).pw_uid, grp.getgrnam(params["group"]).gr_gid
        except KeyError as error:
            raise Refusal(f"valkey: the host has no such user or group ({error})", "Install valkey-server") from error

    def own(self, path: str) -> bool:
        """Give a data folder to the servers' user; return whether that changed it, in check mode whether it would."""
        if not os.path.isdir(path):
            return False
        changed = self._module.set_owner_if_different(path, self._module.params["owner"], False)
        changed = self._module.set_group_if_different(path, self._module.params["group"], changed)
        return self._module.set_mode_if_different(path, 0o750, changed)

    def write(self, path: str, text: str) -> None:
        """Write a file that root owns and the servers may read."""
        _uid, gid = self.ids()
        replace_file(path, text, mode=0o640, uid=0, gid=gid)

    def do(self, step: Step, instance: Instance) -> None:
        """Do a step. Raises Refusal."""
        if step.verb == steps.FOLDER:
            os.mkdir(step.path, 0o750)
        elif step.verb == steps.WRITE:
            self.write(step.path, step.text)
        else:
            try:
                instance.do(step)
            except Refusal as error:
                if step.verb != steps.LOAD_ACL:
                    raise
                if step.before and step.before != step.text:
                    self.write(step.path, step.before)
                remedy = "Correct valkey_users; the servers keep the users they had"
                raise Refusal(f"valkey {step.port}: {error}", remedy) from error


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, plan, (check mode stops) act; return the module's result. Raises Refusal, OSError."""
    params, host = module.params, Host(module)
    installed = installed_version(module) or params["version"]
    wished = steps.templates(
        params["instances"],
        params["config"],
        params["settings"],
        (params["replication_username"], params["replication_password"]),
        memory=total_memory(),
        fraction=params["memory_fraction"],
        folder=params["config_dir"],
        version=installed,
    )
    if not module.check_mode:
        host.ids()
    instances = {template.port: Instance(params, template, installed) for template in wished}
    try:
        return converge(module, host, instances, installed)
    finally:
        for instance in instances.values():
            instance.close()


def converge(module: AnsibleModule, host: Host, instances: dict[int, Instance], installed: str) -> dict[str, Any]:
    """Do what is left of the plan; return the module's result. Raises Refusal, OSError."""
    each = list(instances.values())
    acl = steps.acl_for(module.params["acl"], [one.version for one in each if one.version], installed)
    before = read_text(each[0].wish.settings["aclfile"])
    found = {port: instance.look(acl) for port, instance in instances.items()}
    changes = {port: instance.change for port, instance in instances.items()}
    left = steps.steps([instance.wish for instance in each], found, changes, (before, acl))
    owned = [host.own(instance.wish.settings["dir"]) for instance in each]
    for step in left:
        if module.check_mode:
            instances[step.port].expect(step)
        else:
            host.do(step, instances[step.port])
            owned += [host.own(step.path)] if step.verb == steps.FOLDER else []
    told = [step for step in left if step.verb in (steps.FOLDER, steps.WRITE)]
    acted = [instance for instance in each if instance.live or instance.loaded]
    return {
        "changed": bool(any(owned) or told or acted),
        "instances": [instance.result() for instance in each],
        "restart_needed": [instance.wish.port for instance in each if instance.restart],
        "running": all(instance.version for instance in each),
        "diff": [steps.file_diff(step) for step in told] + [instance.diff() for instance in acted],
    }


def main() -> None:
    """Run the module."""
    instance_spec = {
        "port": {"type": "int", "required": True},
        "maxmemory": {"type": "str"},
        "settings": {"type": "dict", "default": {}},
        "weight": {"type": "float"},
        "role": {"type": "str", "choices": ["primary", "replica"]},
        "slots": {"type": "str"},
        "state": {"type": "str", "choices": ["present", "absent"]},
    }
    module = AnsibleModule(
        argument_spec={
            "instances": {"type": "list", "elements": "dict", "required": True, "options": instance_spec},
            "config": {"type": "str", "required": True},
            "settings": {"type": "dict", "default": {}},
            "acl": {"type": "str", "required": True, "no_log": True},
            "username": {"type": "str", "default": "admin"},
            "password": {"type": "str", "required": True, "no_log": True},
            "previous_passwords": {"type": "list", "elements": "str", "default": [], "no_log": True},
            "replication_username": {"type": "str", "default": "replication"},
            "replication_password": {"type": "str", "required": True, "no_log": True},
            "version": {"type": "str", "default": ""},
            "memory_fraction": {"type": "float", "default": 0.6},
            "config_dir": {"type": "path", "default": "/etc/valkey"},
            "run_dir": {"type": "path", "default": "/run/holdfast/valkey"},
            "owner": {"type": "str", "default": "valkey"},
            "group": {"type": "str", "default": "valkey"},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"valkey_config: {error}")


if __name__ == "__main__":
    main()
