#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
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
"""

import grp
import os
import pwd
import re
from dataclasses import dataclass, field
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import read_text, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.config import (
    Plan,
    changed_users,
    check_apart,
    check_ports,
    for_version,
    instance_text,
    make_plan,
    masked_acl,
    parse_config,
    parse_size,
    render_setting,
    same,
    share_memory,
    unknown_settings,
    version_numbers,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.running import Server, digest

# Settings whose values stay out of results.
SECRET_SETTINGS = frozenset(
    {"primaryauth", "masterauth", "requirepass", "tls-key-file-pass", "tls-client-key-file-pass"}
)
TLS_FILES = ("tls-cert-file", "tls-key-file", "tls-ca-cert-file")
# What waits for a restart beside settings: a program that is newer on disk.
PROGRAM = "program"


@dataclass
class Instance:
    """One instance: what it shall be, and what was found and done.

    template: its configuration for all versions. text: the wished configuration file, for its own.
    """

    port: int
    maxmemory: int
    template: str
    path: str
    text: str = ""
    wished: dict[str, str] = field(default_factory=dict)
    on_disk: str = ""
    running: bool = False
    live: dict[str, str] = field(default_factory=dict)
    live_before: dict[str, str] = field(default_factory=dict)
    restart: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)

    def suit(self, version: str) -> None:
        """Take the configuration of a version. Raises Refusal."""
        self.text = for_version(self.template, version)
        self.wished = parse_config(self.text, self.path)

    @property
    def acl_path(self) -> str:
        """Path of the ACL file that the server shall use."""
        return self.wished["aclfile"]

    @property
    def changed(self) -> bool:
        """Whether anything differs; a restart that still waits is no change of this run."""
        return bool(self.text != self.on_disk or self.live or self.loaded)

    def result(self) -> dict[str, Any]:
        """Return the entry of the module's result."""
        return {
            "port": self.port,
            "running": self.running,
            "maxmemory": self.maxmemory,
            "live": sorted(self.live),
            "restart": self.restart,
            "loaded": self.loaded,
        }


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


class Work:
    """One run of the module: reads everything, then (outside check mode) acts, instance by instance."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.check = module.check_mode
        self.params = module.params
        self.installed = installed_version(module) or module.params["version"]
        self.diffs: list[dict[str, str]] = []
        self.changed = False

    def run(self) -> dict[str, Any]:
        """Return the module's result. Raises Refusal, OSError."""
        instances = self.instances()
        if not self.check:
            self.ids()
        servers = {instance.port: server for instance in instances if (server := self.connect(instance))}
        plans = {
            instance.port: self.plan(instance, servers[instance.port]) for instance in instances if instance.running
        }
        self.folders(instances)
        old_acl = read_text(instances[0].acl_path)
        try:
            self.acl(instances, servers, old_acl)
            for instance in instances:
                self.apply(instance, servers.get(instance.port), plans.get(instance.port))
        finally:
            for server in servers.values():
                server.close()
        return {
            "changed": self.changed or any(instance.changed for instance in instances),
            "instances": [instance.result() for instance in instances],
            "restart_needed": [instance.port for instance in instances if instance.restart],
            "running": all(instance.running for instance in instances),
            "diff": self.diffs
            + [self.live_diff(instance) for instance in instances if instance.live or instance.loaded],
        }

    def instances(self) -> list[Instance]:
        """Return the instances as they shall be. Raises Refusal for what cannot be."""
        wishes = self.params["instances"]
        check_ports([wish["port"] for wish in wishes])
        fixed = {wish["port"]: self.size(wish) for wish in wishes}
        memory = share_memory(total_memory(), self.params["memory_fraction"], fixed)
        secret = {
            "primaryuser": self.params["replication_username"],
            "primaryauth": self.params["replication_password"],
        }
        template = self.params["config"].rstrip("\n") + "\n\n# Replicas log in at their primary as\n"
        template += "\n".join(render_setting(*pair) for pair in secret.items())
        instances = [self.instance(wish, memory[wish["port"]], template) for wish in wishes]
        check_apart({instance.port: instance.wished for instance in instances})
        return instances

    def instance(self, wish: dict[str, Any], maxmemory: int, template: str) -> Instance:
        """Return one instance as it shall be."""
        settings = {**self.params["settings"], "maxmemory": maxmemory, **wish["settings"]}
        path = os.path.join(self.params["config_dir"], f"valkey-{wish['port']}.conf")
        text = instance_text(template, wish["port"], settings)
        instance = Instance(wish["port"], maxmemory, text, path, on_disk=read_text(path))
        instance.suit(self.installed)
        missing = [name for name in ("aclfile", "dir", "unixsocket") if not instance.wished.get(name)]
        if missing:
            raise Refusal(f"config: directive {missing[0]} is missing", "Add it")
        return instance

    @staticmethod
    def size(wish: dict[str, Any]) -> int | None:
        """Return the maxmemory of an instance in bytes, None if it has none of its own. Raises Refusal."""
        if wish["maxmemory"] is None:
            return None
        size = parse_size(wish["maxmemory"])
        if not size:
            where = f"valkey_instances, port {wish['port']}, maxmemory"
            raise Refusal(f"{where}: {wish['maxmemory']!r} is no size", "Write bytes, or a number with kb, mb or gb")
        return size

    def connect(self, instance: Instance) -> Server | None:
        """Return the running server of an instance, None if it does not run."""
        try:
            server = Server(
                instance.port,
                instance.wished["unixsocket"],
                self.params["run_dir"],
                self.params["username"],
                [self.params["password"], *self.params["previous_passwords"]],
            )
        except ConnectionRefusedError:
            return None
        instance.running = True
        instance.suit(server.version)
        return server

    def plan(self, instance: Instance, server: Server) -> Plan:
        """Return what brings the running server to its configuration. Raises Refusal for unknown settings."""
        live = server.settings(instance.wished)
        unknown = unknown_settings(instance.wished, live)
        if unknown:
            name, near = next(iter(unknown.items()))
            remedy = f"Did you mean {near}?" if near else "Remove it from valkey_settings"
            raise Refusal(f"{server.where}: this version of the server has no setting {name}", remedy)
        plan = make_plan(instance.wished, live, parse_config(instance.on_disk), server.memory.removed, server.version)
        instance.live, instance.restart = dict(plan.live), [*plan.restart, *([PROGRAM] if server.outdated else [])]
        instance.live_before = {name: live[name] for name in plan.live}
        return plan

    def ids(self) -> tuple[int, int]:
        """Return the numbers of the servers' user and group. Raises Refusal if they are not there."""
        try:
            return pwd.getpwnam(self.params["owner"]).pw_uid, grp.getgrnam(self.params["group"]).gr_gid
        except KeyError as error:
            raise Refusal(f"valkey: the host has no such user or group ({error})", "Install valkey-server") from error

    def folders(self, instances: list[Instance]) -> None:
        """Make the data folders, and give those that exist to the servers' user."""
        for instance in instances:
            path = instance.wished["dir"]
            if not os.path.isdir(path):
                self.changed = True
                self.diffs.append({"before": "", "after": "folder\n", "before_header": path, "after_header": path})
                if self.check:
                    continue
                os.mkdir(path, 0o750)
            changed = self.module.set_owner_if_different(path, self.params["owner"], False)
            changed = self.module.set_group_if_different(path, self.params["group"], changed)
            self.changed = self.module.set_mode_if_different(path, 0o750, changed) or self.changed

    def acl(self, instances: list[Instance], servers: dict[int, Server], old: str) -> None:
        """Write the ACL file and make every running server load it; put the old file back if one refuses it."""
        oldest = min((server.version for server in servers.values()), key=version_numbers, default=self.installed)
        path, new = instances[0].acl_path, for_version(self.params["acl"], oldest)
        self.file(path, old, new, masked_acl)
        if old and old != new and masked_acl(old) == masked_acl(new):
            self.diffs[-1]["after"] += f"# new passwords: {', '.join(changed_users(old, new))}\n"
        for instance in instances:
            server = servers.get(instance.port)
            if server and "aclfile" not in instance.restart:
                try:
                    self.load_acl(instance, server, path, new)
                except Refusal as error:
                    if old and old != new:
                        self.write(path, old)
                    remedy = "Correct valkey_users; the servers keep the users they had"
                    raise Refusal(f"{server.where}: {error}", remedy) from error

    def load_acl(self, instance: Instance, server: Server, path: str, text: str) -> None:
        """Make one server load the ACL file if it has not, or if somebody changed its users since."""
        current = server.acl_digest()
        if server.has_loaded(path, text) and server.memory.acl in ("", current):
            server.memory.acl = current
        elif self.check or server.load_acl():
            instance.loaded.append(path)
        if not self.check:
            server.memory.files[path] = digest(text)
            server.memory.acl = server.acl_digest()

    def apply(self, instance: Instance, server: Server | None, plan: Plan | None) -> None:
        """Bring one instance to its configuration: memory, live settings, TLS files, at last its file."""
        if server and plan:
            server.memory.removed = list(plan.removed)
            digests = self.tls_digests(instance, server)
            if not self.check:
                server.remember()
                self.set_live(instance, server)
                server.memory.files.update(digests)
                server.remember()
        self.file(instance.path, instance.on_disk, instance.text, self.masked_config)

    def set_live(self, instance: Instance, server: Server) -> None:
        """Set what can be set, and verify it by reading it back. Raises Refusal."""
        refused = server.set_live(
            {**instance.live, **{name: instance.wished[name] for name in self.tls_names(instance)}}
        )
        for name in refused:
            del instance.live[name]
        instance.restart = sorted({*instance.restart, *refused})
        if instance.live:
            after = server.settings(instance.wished)
            wrong = [name for name in instance.live if not same(name, instance.wished[name], after[name])]
            if wrong:
                found = f"{wrong[0]} is {after[wrong[0]]!r} after CONFIG SET to {instance.wished[wrong[0]]!r}"
                raise Refusal(f"{server.where}: {found}", "Write the value as the server shows it")

    @staticmethod
    def tls_digests(instance: Instance, server: Server) -> dict[str, str]:
        """Return the digests of the TLS files; note those the server has not loaded, set_live() makes it load them."""
        digests = {}
        for path in sorted({instance.wished[name] for name in TLS_FILES if instance.wished.get(name)}):
            if os.path.exists(path):
                with open(path, "rb") as stream:
                    content = stream.read()
                digests[path] = digest(content)
                if not server.has_loaded(path, content):
                    instance.loaded.append(path)
        return digests

    @staticmethod
    def tls_names(instance: Instance) -> list[str]:
        """Return the settings that name a TLS file that has to be loaded again; setting one loads all three."""
        return [name for name in TLS_FILES if instance.wished.get(name) in instance.loaded]

    def file(self, path: str, old: str, new: str, mask: Any) -> None:
        """Write a file where it differs, and say so."""
        if old == new:
            return
        self.changed = True
        header = {"before_header": path, "after_header": path}
        self.diffs.append({"before": mask(old), "after": mask(new), **header})
        if not self.check:
            self.write(path, new)

    def write(self, path: str, text: str) -> None:
        """Write a file that root owns and the servers may read."""
        _uid, gid = self.ids()
        replace_file(path, text, mode=0o640, uid=0, gid=gid)

    @staticmethod
    def masked_config(text: str) -> str:
        """Return a configuration without its secrets, for people."""
        return re.sub(rf"(?m)^({'|'.join(sorted(SECRET_SETTINGS))}) .*$", r"\1 (secret)", text)

    @staticmethod
    def live_diff(instance: Instance) -> dict[str, str]:
        """Return the diff of a running server."""

        def show(values: dict[str, str], secret: str) -> str:
            shown = {name: secret if name in SECRET_SETTINGS else values[name] for name in sorted(instance.live)}
            return "".join(f"{name} {value}\n" for name, value in shown.items())

        title = f"running server {instance.port}"
        after = show(instance.wished, "(new secret)") + "".join(f"# loaded again: {path}\n" for path in instance.loaded)
        return {
            "before": show(instance.live_before, "(secret)"),
            "after": after,
            "before_header": title,
            "after_header": title,
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
        module.exit_json(**Work(module).run())
    except Refusal as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"valkey_config: {error}")


if __name__ == "__main__":
    main()
