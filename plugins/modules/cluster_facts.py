#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that reads what a running cluster has on a host, whoever made it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_facts
short_description: Read what a running cluster has on a host, whoever made it
version_added: 0.2.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Reads the configurations of Patroni, PgBouncer, HAProxy, keepalived and Valkey that run on the host, and asks Patroni, PostgreSQL
    and Valkey for what is in them. M(holdfast.persistence.export_inventory) makes an inventory of that.
  - No secret is returned, neither a password nor a hash; RV(patroni) names the places that were left out.
  - Only processes in the host's own process namespace count, not those of containers on it.
  - It needs root, the Python package yaml where Patroni runs, C(psql) where PostgreSQL runs, and C(valkey-cli) or C(redis-cli) where
    Valkey runs.
options:
  services:
    description:
      - What is looked at. V(postgresql) is Patroni and what is beside it, V(balancer) is PgBouncer, HAProxy and keepalived.
      - The others count as not there, as an HAProxy on the host that belongs to somebody else.
    type: list
    elements: str
    choices: [postgresql, balancer, valkey]
    default: [postgresql, balancer, valkey]
  patroni_config:
    description: Path of Patroni's configuration. The one that a running Patroni was started with if not given.
    type: path
  pgbouncer_config:
    description: Path of PgBouncer's configuration. The one that a running PgBouncer was started with if not given.
    type: path
  haproxy_config:
    description: Path of HAProxy's configuration. The one that a running HAProxy was started with if not given.
    type: path
  keepalived_config:
    description: Path of keepalived's configuration. The usual one if not given, while keepalived runs.
    type: path
  valkey_config_dirs:
    description: Folders with configuration files of Valkey and Redis; a file belongs to the server that has its port.
    type: list
    elements: path
    default: [/etc/valkey, /etc/redis]
  valkey_ports:
    description: Ports of the servers that count. All that run if not given.
    type: list
    elements: int
    default: []
  valkey_username:
    description: User who may read the configuration of Valkey. Where not given, the users in its configuration file are tried.
    type: str
    default: default
  valkey_password:
    description: Password of O(valkey_username).
    type: str
  timeout:
    description: How long Patroni may take to answer, in seconds.
    type: float
    default: 10
attributes:
  check_mode:
    description: The module only reads.
    support: full
  diff_mode:
    description: There is nothing to compare.
    support: none
seealso:
  - module: holdfast.persistence.export_inventory
  - module: holdfast.persistence.host_probe
"""

EXAMPLES = r"""
- name: Read what runs on the host
  holdfast.persistence.cluster_facts:
  register: found

- name: Read a Valkey whose users are in no configuration file
  holdfast.persistence.cluster_facts:
    valkey_username: operator
    valkey_password: "{{ vault_valkey_operator }}"
  no_log: true
  register: found
"""

RETURN = r"""
patroni:
  description:
    - V(config), the member's own configuration; V(dynamic), the cluster's; V(members) as Patroni's C(/cluster) names them.
    - V(own) is whether this collection wrote the configuration, V(hidden) names the places of secrets, V(error) tells why Patroni gave
      no answer.
    - Empty where Patroni does not run.
  type: dict
  returned: always
  sample:
    path: /etc/patroni/config.yml
    own: false
    config: {scope: orders, name: db1, postgresql: {connect_address: "192.0.2.11:5432", data_dir: /srv/pg}}
    dynamic: {ttl: 30, loop_wait: 10, postgresql: {parameters: {max_connections: 300}}}
    members: [{name: db1, role: leader, state: running}]
    hidden: [postgresql.authentication.superuser.password]
    error: ""
postgresql:
  description:
    - V(version), V(replica), V(settings), lines of V(hba), V(users) and V(databases) of the server under Patroni.
    - Empty where none answers.
  type: dict
  returned: always
  sample:
    version: 17
    replica: false
    settings: {work_mem: {value: 4MB, source: default, file: null}}
    hba: [hostssl all all 192.0.2.0/24 scram-sha-256]
    users: []
    databases: [{name: orderdb, owner: orderuser, extensions: [], schemas: [], settings: {values: [], hidden: []}}]
postgresql_error:
  description: Why PostgreSQL was not asked, empty where it was or where none is.
  type: str
  returned: always
  sample: "psql failed: connection refused"
etcd:
  description: Whether a member of etcd runs on the host.
  type: bool
  returned: always
  sample: true
backup:
  description: Whether a server of pgBackRest runs on the host.
  type: bool
  returned: always
  sample: false
pgbouncer:
  description: V(settings) and V(databases) of PgBouncer's file, and where secrets were left out. Empty where it does not run.
  type: dict
  returned: always
  sample: {settings: {pool_mode: transaction}, databases: {orderdb: {host: 127.0.0.1, port: "5000"}}, hidden: []}
haproxy:
  description: V(maxconn) and V(sections) of HAProxy's file. Empty where it does not run.
  type: dict
  returned: always
  sample:
    maxconn: 1000
    sections:
      - {kind: listen, name: primary, binds: [{address: "*", port: 5000}], check: /primary, backend: "", servers: ["192.0.2.11:5432"]}
keepalived:
  description: The first virtual address. Empty where there is none.
  type: dict
  returned: always
  sample: {address: 192.0.2.10, prefix: 24, interface: eth0, router_id: 51}
valkey:
  description:
    - Servers, each with V(port), V(program), V(version), V(cluster_enabled), settings V(declared) in its file and V(live) ones, V(nodes)
      as the server sees them, V(users) without passwords, and V(error), why nobody could log in.
  type: list
  elements: dict
  returned: always
  sample:
    - port: 7001
      program: valkey-server
      version: 8.1.1
      cluster_enabled: true
      declared: {appendonly: "yes"}
      live: {appendonly: "yes", maxmemory: "1073741824"}
      nodes: "07c37df1 127.0.0.1:7001@17001 myself,master - 0 0 1 connected 0-16383"
      users: [{name: app, enabled: true, nopass: false, passwords: 1, rules: "~* &* +@all"}]
      declared_users: []
      error: ""
"""

import glob
import json
import os
import pwd
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import read_text
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import configuration, secrets
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.content import settings_without_secrets
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.valkey import ASKED
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.module_utils.valkey.host.config import parse_config

try:
    import yaml
except ImportError:
    HAS_YAML = False
else:
    HAS_YAML = True

SERVICES = ("postgresql", "balancer", "valkey")
SERVERS = ("valkey-server", "redis-server")
OWN_MARK = "# Written by Ansible (holdfast.persistence"
# Patroni's variables of the environment that win over its file, by their places there (patroni/config.py).
ENVIRONMENT = {
    "PATRONI_NAME": ("name",),
    "PATRONI_SCOPE": ("scope",),
    "PATRONI_NAMESPACE": ("namespace",),
    "PATRONI_RESTAPI_CONNECT_ADDRESS": ("restapi", "connect_address"),
    "PATRONI_POSTGRESQL_CONNECT_ADDRESS": ("postgresql", "connect_address"),
    "PATRONI_POSTGRESQL_DATA_DIR": ("postgresql", "data_dir"),
}
QUERY = """
SELECT json_build_object(
  'version', current_setting('server_version_num')::int / 10000,
  'replica', pg_is_in_recovery(),
  'settings', (SELECT json_object_agg(name, json_build_object('value', current_setting(name), 'source', source, 'file', sourcefile))
    FROM pg_settings WHERE context <> 'internal'),
  'hba', pg_read_file(current_setting('hba_file')),
  'users', (SELECT coalesce(json_agg(json_build_object('name', rolname, 'super', rolsuper, 'inherit', rolinherit,
      'createrole', rolcreaterole,
      'createdb', rolcreatedb, 'login', rolcanlogin, 'replication', rolreplication, 'bypassrls', rolbypassrls, 'limit', rolconnlimit,
      'expires', coalesce(rolvaliduntil::text, ''),
      'password', CASE WHEN rolpassword IS NULL THEN 'none' WHEN rolpassword LIKE 'SCRAM-SHA-256$%' THEN 'scram' ELSE 'md5' END,
      'member_of', (SELECT coalesce(json_agg(g.rolname ORDER BY g.rolname), '[]') FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid
        WHERE m.member = a.oid),
      'settings', (SELECT coalesce(json_agg(json_build_object('database', coalesce(d.datname, ''), 'values', s.setconfig)), '[]')
        FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase WHERE s.setrole = a.oid)) ORDER BY rolname), '[]')
    FROM pg_authid a WHERE rolname !~ '^pg_'),
  'databases', (SELECT json_agg(json_build_object('name', datname, 'owner', pg_get_userbyid(datdba), 'connect', datallowconn,
      'settings', (SELECT coalesce(json_agg(setconfig), '[]') FROM pg_db_role_setting
        WHERE setdatabase = d.oid AND setrole = 0)) ORDER BY datname)
    FROM pg_database d WHERE NOT datistemplate))
"""
DATABASE_QUERY = """
SELECT json_build_object(
  'extensions', (SELECT coalesce(json_agg(extname ORDER BY extname), '[]') FROM pg_extension WHERE extname <> 'plpgsql'),
  'schemas', (SELECT coalesce(json_agg(json_build_object('name', nspname, 'owner', pg_get_userbyid(nspowner)) ORDER BY nspname), '[]')
    FROM pg_namespace n WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_namespace'::regclass AND objid = n.oid AND deptype = 'e')))
"""


class Process(NamedTuple):
    """A process of this host. words: its command line; program: the name of its file, behind links."""

    pid: int
    name: str
    words: list[str]
    path: str

    @property
    def names(self) -> set[str]:
        """What the program is called by the kernel and by its command line.

        Servers that set their own title have it in one word with the rest. What the dynamic loader was told to start has its name.
        """
        words = self.words if os.path.basename(self.path).startswith("ld-") else self.words[:1]
        return {self.name, *(os.path.basename(word.split(" ")[0]) for word in words)}


def read_bytes(path: str) -> bytes:
    """Return what is in a file of /proc, empty where the process is gone."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def link(path: str) -> str:
    """Return where a link of /proc leads, empty where the process is gone."""
    try:
        return os.readlink(path)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return ""


def processes() -> Iterator[Process]:
    """Yield the processes in this one's namespace of processes."""
    own = link("/proc/self/ns/pid")
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        if link(f"/proc/{pid}/ns/pid") == own:
            words = read_bytes(f"/proc/{pid}/cmdline").decode("utf-8", "replace").split("\0")
            name = read_bytes(f"/proc/{pid}/comm").decode("utf-8", "replace").strip()
            yield Process(
                pid, name, [word for word in words if word], link(f"/proc/{pid}/exe").removesuffix(" (deleted)")
            )


class Host:
    """What runs here, read once."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.processes = list(processes())

    def named(self, *names: str) -> list[Process]:
        """Return the processes of programs with these names, by what the kernel or the first word of the command line calls them."""
        return [process for process in self.processes if process.names & set(names)]

    def run(self, words: list[str], environment: Mapping[str, str], text: str | None = None) -> str:
        """Run a program that only reads. Raises Refusal with what it said."""
        code, out, errors = self.module.run_command(
            words, data=text, environ_update={"LC_ALL": "C", **environment}, cwd="/"
        )
        if code != 0:
            raise Refusal(f"{os.path.basename(words[0])} failed: {(errors or out).strip().splitlines()[-1:]}")
        return str(out)


# ---- Patroni


def patroni_process(host: Host) -> tuple[str, dict[str, str]]:
    """Return the path of the configuration of the Patroni that runs, and its environment; empty where none runs."""
    given = host.module.params["patroni_config"]
    for process in host.processes:
        programs = [os.path.basename(word) for word in process.words[:3]]
        if "patroni" in programs and not given:
            path = next(
                (word for word in process.words[1:] if word.endswith((".yml", ".yaml")) or os.path.isdir(word)), ""
            )
            pairs = (
                pair.partition("=")
                for pair in read_bytes(f"/proc/{process.pid}/environ").decode("utf-8", "replace").split("\0")
            )
            environment = {name: value for name, _equals, value in pairs if name in ENVIRONMENT}
            if not path:
                raise Refusal(
                    "Patroni runs without a configuration file, by its environment alone",
                    "Give its configuration as patroni_config",
                )
            return os.path.join(link(f"/proc/{process.pid}/cwd") or "/", path), environment
    return given or "", {}


def patroni_config(path: str, environment: Mapping[str, str]) -> tuple[dict[str, Any], bool]:
    """Return Patroni's own configuration, and whether this collection wrote it. A folder counts as all its files. Raises Refusal."""
    if not HAS_YAML:
        raise Refusal(missing_required_lib("pyyaml"))
    paths = sorted(glob.glob(os.path.join(path, "*.y*ml"))) if os.path.isdir(path) else [path]
    texts = [read_text(each) for each in paths]
    if not any(texts):
        raise Refusal(f"{path}: no such configuration of Patroni")
    found: dict[str, Any] = {}
    for each, text in zip(paths, texts, strict=True):
        try:
            merge(found, yaml.safe_load(text) or {})
        except (yaml.YAMLError, AttributeError) as error:
            raise Refusal(f"{each}: not understood ({str(error).splitlines()[0]})") from error
    for name, value in environment.items():
        *sections, last = ENVIRONMENT[name]
        target = found
        for section in sections:
            target = target.setdefault(section, {})
        target[last] = value
    return found, any(text.startswith(OWN_MARK) for text in texts)


def merge(target: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Put one mapping into another, level by level."""
    for name, value in more.items():
        if isinstance(value, Mapping) and isinstance(target.get(name), dict):
            merge(target[name], value)
        else:
            target[name] = value


def ask_patroni(config: Mapping[str, Any], path: str, timeout: float) -> Any:
    """Return the answer of this host's Patroni to GET. Its certificate has to be the one of its configuration. Raises Refusal."""
    api, ctl = config.get("restapi") or {}, config.get("ctl") or {}
    address = api.get("connect_address") or api.get("listen") or "127.0.0.1:8008"
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    secure = bool(api.get("certfile"))
    try:
        if secure:
            context = ssl.create_default_context(cafile=api["certfile"])
            # The file on this host says which certificate is meant; by whom it was issued and for which name plays no part then.
            context.check_hostname = False
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            certificate = ctl.get("certfile") or api["certfile"]
            context.load_cert_chain(
                certificate, ctl.get("keyfile") or api.get("keyfile") or certificate, password=lambda: ""
            )
            handlers.append(urllib.request.HTTPSHandler(context=context))
        opener = urllib.request.build_opener(*handlers)
        with opener.open(f"{'https' if secure else 'http'}://{address}{path}", timeout=timeout) as response:
            return json.loads(response.read())
    except (OSError, ValueError) as error:
        raise Refusal(f"{address}{path}: {getattr(error, 'reason', None) or error}") from error


def patroni(host: Host) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return (facts of Patroni, its whole configuration, which is for this module only). Raises Refusal."""
    path, environment = patroni_process(host)
    if not path:
        return {}, {}
    config, own = patroni_config(path, environment)
    dynamic: dict[str, Any] = (config.get("bootstrap") or {}).get("dcs") or {}
    members: list[dict[str, Any]] = []
    error = ""
    try:
        dynamic = ask_patroni(config, "/config", host.module.params["timeout"])
        answer = ask_patroni(config, "/cluster", host.module.params["timeout"])
        members = [
            {key: member.get(key) for key in ("name", "role", "state", "host", "port")}
            for member in answer.get("members", [])
        ]
    except Refusal as refusal:
        error = str(refusal)
    clean, hidden = secrets.without({key: value for key, value in config.items() if key != "bootstrap"})
    clean["bootstrap"] = {"initdb": (config.get("bootstrap") or {}).get("initdb")}
    clean_dynamic, more = secrets.without(dynamic, "dynamic")
    found = {
        "path": path,
        "own": own,
        "config": clean,
        "dynamic": clean_dynamic,
        "members": members,
        "hidden": [*hidden, *more],
        "error": error,
    }
    return found, config


# ---- PostgreSQL


class Psql:
    """The server in a data directory, asked as its superuser through its socket. Raises Refusal where it does not run."""

    def __init__(self, host: Host, config: Mapping[str, Any]) -> None:
        self._host = host
        section = config.get("postgresql") or {}
        folder = str(section.get("data_dir") or "")
        lines = read_text(os.path.join(folder, "postmaster.pid")).splitlines() if folder else []
        if len(lines) < 5:
            raise Refusal(f"no server runs in {folder or 'a data directory that Patroni does not name'}")
        superuser = (section.get("authentication") or {}).get("superuser") or {}
        beside = os.path.join(os.path.dirname(link(f"/proc/{lines[0].strip()}/exe")), "psql")
        program = beside if os.path.exists(beside) else host.module.get_bin_path("psql")
        if program is None:
            raise Refusal("psql is missing on this host")
        owner = pwd.getpwuid(os.stat(folder).st_uid)
        self._command = [
            program,
            "-XAtq",
            "-v",
            "ON_ERROR_STOP=1",
            "-h",
            lines[4].strip() or "localhost",
            "-p",
            lines[3].strip(),
        ]
        self._command += ["-U", str(superuser.get("username") or "postgres")]
        if os.geteuid() == 0 and owner.pw_uid != 0:
            self._command = [
                host.module.get_bin_path("runuser", required=True),
                "-u",
                owner.pw_name,
                "--",
                *self._command,
            ]
        self._environment = {"PGAPPNAME": "cluster_facts", "PGOPTIONS": "-c default_transaction_read_only=on"}
        if superuser.get("password"):
            self._environment["PGPASSWORD"] = str(superuser["password"])

    def json(self, statement: str, database: str = "postgres") -> Any:
        """Return the JSON that a statement gives. The text goes through a pipe, so that it is in no process list."""
        return json.loads(self._host.run([*self._command, "-d", database, "-f", "-"], self._environment, statement))


def postgresql(host: Host, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what PostgreSQL says of itself. Raises Refusal."""
    psql = Psql(host, config)
    found = psql.json(QUERY)
    found["settings"] = {
        name: row
        for name, row in found["settings"].items()
        if not secrets.is_secret(name) and not secrets.has_secret(str(row["value"]))
    }
    lines = (re.sub(r"#.*", "", line).strip() for line in found["hba"].splitlines())
    found["hba"] = [re.sub(r"(bindpasswd|secrets)=\S+", r"\1=", line) for line in lines if line]
    for user in found["users"]:
        for row in user["settings"]:
            row["values"], row["hidden"] = settings_without_secrets(row["values"])
    for database in found["databases"]:
        values = [value for row in database["settings"] for value in row]
        kept, hidden = settings_without_secrets(values)
        inside = (
            psql.json(DATABASE_QUERY, database["name"])
            if database.pop("connect")
            else {"extensions": [], "schemas": []}
        )
        database.update(settings={"values": kept, "hidden": hidden}, **inside)
    return dict(found)


# ---- PgBouncer, HAProxy, keepalived


def config_path(host: Host, option: str, *names: str, after: str = "", usual: str = "") -> str:
    """Return the path of a configuration: as it is given, as a process was started with it, or the usual one if a process runs."""
    given = host.module.params[option]
    running = host.named(*names)
    if given or not running:
        return given or ""
    for process in running:
        words = process.words
        if after in words[:-1]:
            return words[words.index(after) + 1]
        found = [word for word in words[1:] if word.startswith("/") and word.endswith((".ini", ".cfg", ".conf"))]
        if found:
            return found[0]
    return usual


def read_config(path: str) -> str:
    """Return a configuration; a folder counts as all its files. Raises Refusal where there is none."""
    paths = sorted(glob.glob(os.path.join(path, "*.cfg"))) if os.path.isdir(path) else [path]
    text = "\n".join(map(read_text, paths))
    # PgBouncer's way to read another file in this place; what starts it may write a file that has nothing else.
    text = re.sub(r"^%include\s+(\S+)\s*$", lambda match: read_text(match[1]), text, flags=re.MULTILINE)
    if not text.strip():
        raise Refusal(f"{path}: no such configuration")
    return text


def balancing(host: Host) -> dict[str, Any]:
    """Return the facts of pools, routing and the virtual address. Raises Refusal."""
    paths = {
        "pgbouncer": config_path(host, "pgbouncer_config", "pgbouncer", usual="/etc/pgbouncer/pgbouncer.ini"),
        "haproxy": config_path(host, "haproxy_config", "haproxy", after="-f", usual="/etc/haproxy/haproxy.cfg"),
        "keepalived": config_path(
            host, "keepalived_config", "keepalived", after="-f", usual="/etc/keepalived/keepalived.conf"
        ),
    }
    parsers = {
        "pgbouncer": configuration.pgbouncer,
        "haproxy": configuration.haproxy,
        "keepalived": configuration.keepalived,
    }
    return {name: parsers[name](read_config(path)) if path else {} for name, path in paths.items()}


# ---- Valkey


class ValkeyServer:
    """A server that runs here: its file, and whoever can ask it."""

    def __init__(self, host: Host, process: Process, files: Mapping[str, Mapping[str, str]]) -> None:
        self._host, self._process = host, process
        title = " ".join(process.words)
        port = re.search(r"[:\s*](\d+)(?: \[\w+\])?\s*$", title)
        self.port = int(port[1]) if port else 0
        self.path, self.declared = self._find(files)
        self.port = self.port or _port(self.declared)
        self._login: list[str] = []
        self._environment: dict[str, str] = {}

    def _find(self, files: Mapping[str, Mapping[str, str]]) -> tuple[str, Mapping[str, str]]:
        named = next((word for word in self._process.words[1:] if word.startswith("/") and word.endswith(".conf")), "")
        if named:
            return named, _read_valkey(named)
        return next(
            ((path, settings) for path, settings in files.items() if self.port and _port(settings) == self.port),
            ("", {}),
        )

    @property
    def program(self) -> str:
        """The name of its program."""
        return next(name for name in SERVERS if name in self._process.names)

    def _cli(self) -> list[str]:
        folder = os.path.dirname(self._process.path)
        names = [os.path.join(folder, name) for name in ("valkey-cli", "redis-cli")]
        program = next((name for name in names if os.path.exists(name)), None)
        program = program or self._host.module.get_bin_path("valkey-cli") or self._host.module.get_bin_path("redis-cli")
        if program is None:
            raise Refusal("neither valkey-cli nor redis-cli is on this host")
        socket = self.declared.get("unixsocket", "")
        if socket and os.path.exists(socket):
            return [program, "--no-auth-warning", "-s", socket]
        address = next(
            (
                word.lstrip("-")
                for word in self.declared.get("bind", "").split()
                if word.lstrip("-") not in ("*", "::*", "::")
            ),
            "127.0.0.1",
        )
        words = [
            program,
            "--no-auth-warning",
            "-h",
            "127.0.0.1" if address == "0.0.0.0" else address,
            "-p",
            str(self.port),
        ]
        if self.declared.get("tls-port", "0") == "0":
            return words
        files = {"--cacert": "tls-ca-cert-file", "--cert": "tls-cert-file", "--key": "tls-key-file"}
        return [
            *words,
            "--tls",
            *(
                word
                for option, name in files.items()
                if self.declared.get(name)
                for word in (option, self.declared[name])
            ),
        ]

    def login(self, username: str, password: str | None) -> str:
        """Find a user who may read the configuration. Returns why there is none, else nothing."""
        declared = self.declared
        candidates = [(username, password)] if password else []
        candidates += [("default", declared["requirepass"])] if declared.get("requirepass") else []
        for user, secret in (("primaryuser", "primaryauth"), ("masteruser", "masterauth")):
            candidates += [(declared.get(user, "default"), declared[secret])] if declared.get(secret) else []
        refusals = []
        for user, word in [*candidates, ("", None)]:
            self._login = [*self._cli(), *(["--user", user] if word else [])]
            self._environment = {"REDISCLI_AUTH": word, "VALKEYCLI_AUTH": word} if word else {}
            said = self.ask("CONFIG", "GET", "port", check=False).strip().splitlines()
            if said[:1] == ["port"]:
                return ""
            refusals += said[:1]
        # What the most promising user was told.
        return refusals[0] if refusals else "no answer"

    def ask(self, *words: str, check: bool = True) -> str:
        """Return what the server answers. Raises Refusal for an error, if check is true."""
        code, out, errors = self._host.module.run_command(
            [*self._login, *words], environ_update=self._environment, cwd="/"
        )
        if check and (code != 0 or re.match(r"[A-Z]+ ", out)):
            raise Refusal(f"port {self.port}: {' '.join(words)}: {(errors or out).strip()[:200]}")
        return str(out or errors)


def _port(settings: Mapping[str, str]) -> int:
    tls = settings.get("tls-port", "0")
    return int(tls if tls != "0" else settings.get("port", "6379"))


def _read_valkey(path: str) -> dict[str, str]:
    """Return the settings of a file and of the files that it includes; the lines of users as one text."""
    text = read_text(path)
    for included in re.findall(r"^\s*include\s+(\S+)", text, re.MULTILINE):
        for each in sorted(glob.glob(included.strip('"'))):
            text += "\n" + read_text(each)
    users = "\n".join(line for line in text.splitlines() if line.startswith("user "))
    rest = "\n".join(line for line in text.splitlines() if not line.startswith("user "))
    return {**parse_config(rest, path), "user": users}


def valkey_files(folders: list[str]) -> dict[str, dict[str, str]]:
    """Return the settings of all configuration files, by path."""
    paths = [
        path for folder in folders for path in sorted(glob.glob(os.path.join(folder, "**", "*.conf"), recursive=True))
    ]
    return {path: _read_valkey(path) for path in paths}


def valkey(host: Host) -> list[dict[str, Any]]:
    """Return the servers that run here. Raises Refusal."""
    params = host.module.params
    files = valkey_files(params["valkey_config_dirs"])
    found = []
    for process in host.named(*SERVERS):
        if "[sentinel]" in process.words or "--sentinel" in process.words:
            continue
        server = ValkeyServer(host, process, files)
        if not params["valkey_ports"] or server.port in params["valkey_ports"]:
            found.append(valkey_facts(server, params["valkey_username"], params["valkey_password"]))
    return found


def valkey_facts(server: ValkeyServer, username: str, password: str | None) -> dict[str, Any]:
    """Return what one server says, or what its files say where nobody may ask it."""
    error = server.login(username, password)
    if error and not server.path:
        raise Refusal(
            f"{server.program} on port {server.port} lets nobody in ({error}), and no file in valkey_config_dirs is its configuration",
            "Give a user who may read its configuration (valkey_username, valkey_password)",
        )
    live: dict[str, str] = {}
    version = ""
    if not error:
        info = dict(line.strip().split(":", 1) for line in server.ask("INFO", "server").splitlines() if ":" in line)
        version = info.get("valkey_version") or info.get("redis_version", "")
        if not server.path and info.get("config_file"):
            server.path, server.declared = info["config_file"], _read_valkey(info["config_file"])
        answer = server.ask("CONFIG", "GET", "*").splitlines()
        everything = dict(zip(answer[::2], answer[1::2], strict=False))
        live = {name: value for name, value in everything.items() if name in ASKED | server.declared.keys()}
    declared_lines = (
        server.declared.get("user", "") + "\n" + read_text(server.declared.get("aclfile") or "/dev/null")
    ).splitlines()
    enabled = (live or server.declared).get("cluster-enabled", "no") == "yes"
    folder = server.declared.get("dir", ".")
    nodes = (
        server.ask("CLUSTER", "NODES")
        if enabled and not error
        else read_text(os.path.join(folder, server.declared.get("cluster-config-file", "nodes.conf")))
    )
    users = configuration.acl_users(server.ask("ACL", "LIST").splitlines() if not error else declared_lines)

    def clean(settings: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in settings.items()
            if name != "user" and not secrets.is_secret(name) and not secrets.has_secret(value)
        }

    return {
        "port": server.port,
        "program": server.program,
        "version": version,
        "cluster_enabled": enabled,
        "declared": clean(server.declared),
        "live": clean(live),
        "nodes": "\n".join(line for line in nodes.splitlines() if line and not line.startswith("vars ")),
        "users": users,
        "declared_users": configuration.acl_users(declared_lines),
        "error": error,
    }


def look(module: AnsibleModule) -> dict[str, Any]:
    """Return everything. Raises Refusal."""
    host = Host(module)
    wanted = module.params["services"]
    about_patroni, config = patroni(host) if "postgresql" in wanted else ({}, {})
    about_postgresql: dict[str, Any] = {}
    error = ""
    if config:
        try:
            about_postgresql = postgresql(host, config)
        except (Refusal, ValueError) as refusal:
            error = str(refusal)
    return {
        "patroni": about_patroni,
        "postgresql": about_postgresql,
        "postgresql_error": error,
        "etcd": "postgresql" in wanted and bool(host.named("etcd")),
        "backup": any("server" in process.words for process in host.named("pgbackrest")),
        **(balancing(host) if "balancer" in wanted else {"pgbouncer": {}, "haproxy": {}, "keepalived": {}}),
        "valkey": valkey(host) if "valkey" in wanted else [],
    }


def main() -> None:
    """Run the module."""
    paths = ("patroni_config", "pgbouncer_config", "haproxy_config", "keepalived_config")
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "choices": list(SERVICES), "default": list(SERVICES)},
            **{name: {"type": "path"} for name in paths},
            "valkey_config_dirs": {
                "type": "list",
                "elements": "path",
                "default": ["/etc/valkey", "/etc/redis"],
                "no_log": False,
            },
            "valkey_ports": {"type": "list", "elements": "int", "default": [], "no_log": False},
            "valkey_username": {"type": "str", "default": "default", "no_log": False},
            "valkey_password": {"type": "str", "no_log": True},
            "timeout": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(changed=False, **look(module))
    except Refusal as error:
        module.fail_json(msg=f"The cluster on this host can't be read: {error}.")


if __name__ == "__main__":
    main()
