#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that prepares a standalone PostgreSQL for being taken into a cluster, and stops it when the cluster takes over."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_standalone
short_description: Prepare a standalone PostgreSQL for a cluster that follows it, and stop it when the cluster takes over
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Handles one server of Debian's layout, C(/etc/postgresql/VERSION/NAME), as C(adopt.yml) needs it.
  - Its data directory is never touched. What is changed is a drop-in in C(conf.d), a block in front of C(pg_hba.conf), the user
    C(replicator), and in the end C(start.conf).
  - Can be repeated, also after it was killed.
options:
  state:
    description:
      - V(checked) reads, and refuses if something prevents an adoption.
      - V(followable) lets the cluster's hosts follow it. Nothing is restarted.
      - V(stopped) makes a CHECKPOINT, stops it, and keeps it from being started, so that no client writes to it any more.
      - V(started) takes V(stopped) back.
    type: str
    choices: [checked, followable, stopped, started]
    required: true
  version:
    description: Its major version.
    type: str
    required: true
  name:
    description: Its name.
    type: str
    default: main
  target:
    description: The cluster that takes it over. Needed for V(checked).
    type: dict
    suboptions:
      version:
        description: Major version.
        type: str
        required: true
      settings:
        description: PostgreSQL's settings in the cluster.
        type: dict
        default: {}
      glibc:
        description: Version of the C library of its hosts.
        type: str
        default: ""
  accept:
    description: Losses that are known and accepted.
    type: list
    elements: str
    choices: [altered, certificate, collation, md5, slots, unlogged]
    default: []
  followers:
    description: Networks in CIDR notation of the hosts that follow. Needed for V(followable).
    type: list
    elements: str
    default: []
  password:
    description: Password of the user C(replicator). Needed for V(followable).
    type: str
  certificate:
    description: Path of a PEM file with key and certificate by which followers know it.
    type: path
    required: true
attributes:
  check_mode:
    description: Says what would be done and does nothing.
    support: full
  diff_mode:
    description: Shows the state before and after.
    support: full
"""

EXAMPLES = r"""
- name: See whether it can be adopted
  holdfast.persistence.postgresql_standalone:
    state: checked
    version: "17"
    certificate: /etc/ssl/holdfast/standalone.pem
    target:
      version: "17"
      settings: {max_connections: 200}

- name: Start it again, after an adoption that did not come about
  holdfast.persistence.postgresql_standalone:
    state: started
    version: "17"
    certificate: /etc/ssl/holdfast/standalone.pem
"""

RETURN = r"""
status:
  description: Its state as C(pg_lsclusters) names it, at the end.
  type: str
  returned: success
  sample: online
port:
  description: Its port.
  type: int
  returned: success
  sample: 5432
adopted:
  description: Whether this module stopped it.
  type: bool
  returned: success
  sample: true
position:
  description: Where its WAL ended, with V(stopped), or when it was stopped earlier.
  type: str
  returned: success
  sample: 0/3000060
system:
  description: Its system identifier, empty while it does not run.
  type: str
  returned: success
  sample: "7711149091995491723"
settings:
  description: What its configuration files set, for the inventory.
  type: dict
  returned: with O(state=checked) while it runs
  sample: {max_connections: "100", shared_buffers: 128MB}
"""

import json
import os
import pwd
import secrets
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import read_text, replace_file
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.scram import SALT_BYTES, verifier
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.standalone import (
    ACCEPTABLE,
    OWN_MARK,
    SETTINGS,
    Listed,
    Server,
    Target,
    parse_clusters,
    parse_control,
    parse_server,
    problems,
    with_block,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

USER = "postgres"
SOCKET_DIR = "/var/run/postgresql"
DISABLED = f"# Written by Ansible ({OWN_MARK}): a cluster has taken this server's data over.\ndisabled\n"
STOPPED_STATES = ("shut down", "shut down in recovery")
QUERY = f"""
SELECT json_build_object(
  'version', current_setting('server_version_num')::int / 10000,
  'replica', pg_is_in_recovery(),
  'system', (SELECT system_identifier::text FROM pg_control_system()),
  'settings', (SELECT json_object_agg(name, setting) FROM pg_settings WHERE name IN ({", ".join(f"'{name}'" for name in SETTINGS)})),
  'declared', (SELECT json_object_agg(name, current_setting(name)) FROM pg_settings WHERE source = 'configuration file'
    AND sourcefile NOT LIKE '%/holdfast-adopt.conf'),
  'altered', (SELECT json_agg(name ORDER BY name) FROM pg_settings WHERE sourcefile LIKE '%/postgresql.auto.conf'),
  'md5', (SELECT json_agg(rolname ORDER BY rolname) FROM pg_authid WHERE rolpassword LIKE 'md5%'),
  'slots', (SELECT json_agg(slot_name ORDER BY slot_name) FROM pg_replication_slots WHERE NOT temporary),
  'tablespaces', (SELECT json_agg(spcname ORDER BY spcname) FROM pg_tablespace WHERE spcname !~ '^pg_'),
  'collations', (SELECT json_object_agg(datname, datcollversion) FROM pg_database WHERE datlocprovider = 'c' AND datcollversion <> ''),
  'databases', (SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn),
  'replicator', (SELECT coalesce(shobj_description(oid, 'pg_authid'), '') FROM pg_authid WHERE rolname = 'replicator'))
"""
UNLOGGED = "SELECT count(*) FROM pg_class WHERE relpersistence = 'u' AND relkind = 'r'"


class Standalone:
    """One server of Debian's layout. Every method raises Refusal."""

    def __init__(self, module: AnsibleModule) -> None:
        self._module = module
        self._version, self._name = module.params["version"], module.params["name"]
        self.folder = f"/etc/postgresql/{self._version}/{self._name}"
        self.listed = self._find()

    def _run(self, words: list[str], text: str | None = None) -> str:
        environment = {"LC_ALL": "C", "PGAPPNAME": "adopt"}
        code, out, errors = self._module.run_command(words, data=text, environ_update=environment, cwd="/")
        if code != 0:
            raise Refusal(f"{words[0]} failed: {(errors or out).strip()[-500:]}")
        return out

    def _find(self) -> Listed:
        path = self._module.get_bin_path("pg_lsclusters")
        if path is None:
            raise Refusal("the host has no PostgreSQL in Debian's layout (pg_lsclusters is missing)")
        clusters = parse_clusters(self._run([path, "--no-header"]))
        for found in clusters:
            if (found.version, found.name) == (self._version, self._name):
                if not os.path.exists(os.path.join(found.data_dir, "PG_VERSION")):
                    raise Refusal(f"{found.data_dir} of {self.folder} is not a data directory")
                return found
        names = ", ".join(f"{found.version}/{found.name}" for found in clusters) or "none"
        raise Refusal(
            f"{self.folder} is not there, found are: {names}. The cluster is of PostgreSQL {self._version}: another major version "
            "has to be upgraded first (pg_upgradecluster), another name is given as adopt_name"
        )

    def refresh(self) -> None:
        """Read again whether it runs."""
        self.listed = self._find()

    def sql(self, statement: str, database: str = "postgres") -> str:
        """Run SQL as its superuser; the text goes through a pipe, so that it is in no process list."""
        runuser = self._module.get_bin_path("runuser", required=True)
        psql = ["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", SOCKET_DIR, "-p", str(self.listed.port), "-d", database]
        return self._run([runuser, "-u", USER, "--", *psql, "-f", "-"], statement).strip()

    def control(self) -> tuple[str, str]:
        """Return state and last checkpoint of its data directory."""
        path = f"/usr/lib/postgresql/{self._version}/bin/pg_controldata"
        return parse_control(self._run([path, "-D", self.listed.data_dir]))

    @property
    def start_file(self) -> str:
        """The file that says whether it may be started."""
        return os.path.join(self.folder, "start.conf")

    @property
    def adopted(self) -> bool:
        """Whether we keep it from being started."""
        return read_text(self.start_file) == DISABLED

    def systemctl(self, verb: str) -> None:
        """Start or stop its unit."""
        systemctl = self._module.get_bin_path("systemctl", required=True)
        self._run([systemctl, "daemon-reload"])
        self._run([systemctl, verb, f"postgresql@{self._version}-{self._name}.service"])


def write(path: str, text: str, mode: int) -> bool:
    """Replace a file of PostgreSQL's user; return whether that changed it."""
    if read_text(path) == text:
        return False
    user = pwd.getpwnam(USER)
    replace_file(path, text, mode=mode, uid=user.pw_uid, gid=user.pw_gid)
    return True


def look(standalone: Standalone) -> tuple[Server, dict[str, Any]]:
    """Return the server, and what it says beside that."""
    data = json.loads(standalone.sql(QUERY))
    counts = {name: int(standalone.sql(UNLOGGED, name)) for name in data["databases"]}
    server = parse_server(data)
    unlogged = {name: count for name, count in counts.items() if count}
    return Server(**{**server.__dict__, "unlogged": unlogged}), data


def checked(module: AnsibleModule, standalone: Standalone) -> dict[str, Any]:
    """Refuse what prevents an adoption."""
    if standalone.adopted and not standalone.listed.is_online:
        state, position = standalone.control()
        if state not in STOPPED_STATES:
            raise Refusal(f"it was stopped for the adoption, but its data is in state '{state}', not 'shut down'")
        return {"changed": False, "position": position}
    if not standalone.listed.is_online:
        raise Refusal(f"it is in state '{standalone.listed.status}', allowed is 'online': start it")
    server, data = look(standalone)
    wish = module.params["target"]
    target = Target(wish["version"], {name: str(value) for name, value in wish["settings"].items()}, wish["glibc"])
    found = problems(server, target, module.params["accept"], module.params["certificate"])
    if found:
        raise Refusal("; ".join(found))
    return {"changed": False, "system": data["system"], "settings": data["declared"] or {}}


def followable(module: AnsibleModule, standalone: Standalone) -> dict[str, Any]:
    """Let the followers in."""
    if standalone.adopted and not standalone.listed.is_online:
        return {"changed": False}
    server, data = look(standalone)
    lines = [f"hostssl replication replicator {network} scram-sha-256" for network in module.params["followers"]]
    certificate = module.params["certificate"]
    drop_in = (
        f"# Written by Ansible ({OWN_MARK}): what the cluster that takes this server over needs to follow it.\n"
        f"ssl_cert_file = '{certificate}'\nssl_key_file = '{certificate}'\nwal_keep_size = 1GB\n"
    )
    hba_file = server.settings["hba_file"]
    wished = with_block(read_text(hba_file), lines)
    drop_in_file = os.path.join(standalone.folder, "conf.d", "holdfast-adopt.conf")
    changed = server.replicator is None or read_text(hba_file) != wished or read_text(drop_in_file) != drop_in
    if changed and not module.check_mode:
        # A password in a statement would be in the server's log where it logs statements.
        password = verifier(module.params["password"], secrets.token_bytes(SALT_BYTES))
        verb = "CREATE" if server.replicator is None else "ALTER"
        standalone.sql(
            f"BEGIN; {verb} ROLE replicator LOGIN REPLICATION PASSWORD '{password}';"
            f" COMMENT ON ROLE replicator IS '{OWN_MARK}'; COMMIT;"
        )
        write(drop_in_file, drop_in, 0o644)
        write(hba_file, wished, 0o640)
        bad = standalone.sql("SELECT count(*) FROM pg_hba_file_rules WHERE error IS NOT NULL")
        if bad != "0":
            raise Refusal(f"{hba_file} has lines that PostgreSQL refuses (pg_hba_file_rules)")
        standalone.sql("SELECT pg_reload_conf()")
    return {"changed": changed, "system": data["system"]}


def stopped(module: AnsibleModule, standalone: Standalone) -> dict[str, Any]:
    """Stop it for good. What follows it has everything then: the server waits for that before it ends."""
    changed = standalone.listed.is_online or not standalone.adopted
    if module.check_mode:
        return {"changed": changed}
    if standalone.listed.is_online:
        standalone.sql("CHECKPOINT")
    if changed:
        # First this, so that a host that boots in the middle doesn't bring it back.
        write(standalone.start_file, DISABLED, 0o644)
    if standalone.listed.is_online:
        standalone.systemctl("stop")
    state, position = standalone.control()
    if state not in STOPPED_STATES:
        raise Refusal(f"it doesn't stop, its data is in state '{state}'")
    return {"changed": changed, "position": position}


def started(module: AnsibleModule, standalone: Standalone) -> dict[str, Any]:
    """Take the stop back."""
    changed = standalone.adopted or not standalone.listed.is_online
    if changed and not module.check_mode:
        write(standalone.start_file, "auto\n", 0o644)
        standalone.systemctl("start")
    return {"changed": changed}


ACTIONS = {"checked": checked, "followable": followable, "stopped": stopped, "started": started}


def run(module: AnsibleModule) -> dict[str, Any]:
    """Read, act, read again; return the result of the module. Raises Refusal."""
    standalone = Standalone(module)
    before = standalone.listed.status
    result = ACTIONS[module.params["state"]](module, standalone)
    standalone.refresh()
    return {
        "status": standalone.listed.status,
        "port": standalone.listed.port,
        "adopted": standalone.adopted,
        "position": "",
        "system": "",
        "diff": {"before": f"{before}\n", "after": f"{standalone.listed.status}\n"},
        **result,
    }


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["checked", "followable", "stopped", "started"], "required": True},
            "version": {"type": "str", "required": True},
            "name": {"type": "str", "default": "main"},
            "target": {
                "type": "dict",
                "options": {
                    "version": {"type": "str", "required": True},
                    "settings": {"type": "dict", "default": {}},
                    "glibc": {"type": "str", "default": ""},
                },
            },
            "accept": {"type": "list", "elements": "str", "choices": list(ACCEPTABLE), "default": []},
            "followers": {"type": "list", "elements": "str", "default": []},
            "password": {"type": "str", "no_log": True},
            "certificate": {"type": "path", "required": True},
        },
        required_if=[("state", "checked", ["target"]), ("state", "followable", ["followers", "password"])],
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except Refusal as error:
        module.fail_json(
            msg=f"The standalone PostgreSQL {module.params['version']}/{module.params['name']} can't be adopted: {error}."
        )


if __name__ == "__main__":
    main()
