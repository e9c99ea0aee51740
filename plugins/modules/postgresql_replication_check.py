#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that judges the replication of a PostgreSQL cluster."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postgresql_replication_check
short_description: Judge the replication of a PostgreSQL cluster
version_added: 0.1.0
author: The holdfast.persistence authors (@holdfast)
description:
  - Reads what every PostgreSQL server of a cluster says of itself (replication, slots, archiver, transaction ages) and
    what Patroni says of all, and returns each rule that does not hold as a finding with a remedy.
  - Run it once, on any host that reaches the servers. It finds the members through O(patroni_urls) and O(members),
    connects to all of them at the same time and judges replicas by what the primary, the replica and Patroni say.
    A server that does not answer is a finding, not a failure of the module.
  - It changes nothing.
  - When a replica has WAL that it has not replayed, all servers are read a second time after O(settle) seconds,
    to tell slow from stuck.
requirements:
  - psycopg (3) or psycopg2 on the host that runs the module
options:
  members:
    description:
      - The servers that the cluster should have. One that Patroni does not know is a finding.
      - Without it only what Patroni knows is checked.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Name of the member, in Patroni and as C(application_name) in C(pg_stat_replication).
        type: str
        required: true
      host:
        description: Address of the server, or the folder of its Unix socket.
        type: str
        required: true
      port:
        description: Port of the server.
        type: int
        default: 5432
  patroni_urls:
    description:
      - Base URLs of Patroni's REST API, such as V(https://198.18.7.11:8008). The first that answers is believed.
      - Without it Patroni's rules are not checked, and O(members) must be given.
    type: list
    elements: str
    default: []
  synchronous_mode:
    description: The C(synchronous_mode) that Patroni should have. Without it the one that Patroni has is right.
    type: str
    choices: ["off", "on", quorum]
  login_user:
    description: User of PostgreSQL, a superuser or a member of C(pg_monitor).
    type: str
    default: postgres
  login_password:
    description: Password of O(login_user).
    type: str
  rewinds:
    description: Whether O(login_user) is Patroni's user for pg_rewind, so that the rights which that needs are judged.
    type: bool
    default: false
    version_added: 0.2.0
  login_db:
    description: Database to connect to.
    type: str
    default: postgres
  ssl_mode:
    description: How PostgreSQL's certificate is verified, as libpq's C(sslmode).
    type: str
    choices: [disable, prefer, require, verify-ca, verify-full]
    default: verify-full
  ca_cert:
    description: File of the CA certificate that signed PostgreSQL's and Patroni's certificates.
    type: path
  client_cert:
    description: File with the client certificate and its key, for PostgreSQL and Patroni.
    type: path
  timeout:
    description: Time for each connection, statement and request, in seconds.
    type: int
    default: 5
  settle:
    description: Time between two readings when a replica has WAL that it has not replayed, in seconds. V(0) reads once.
    type: float
    default: 1
  lag_bytes_warning:
    description: A replica's replay is this many bytes behind, a warning.
    type: int
    default: 16777216
  lag_bytes_critical:
    description: A replica's replay is this many bytes behind, critical.
    type: int
    default: 268435456
  lag_seconds_warning:
    description: A replica's replay is this many seconds behind, a warning.
    type: float
    default: 10
  lag_seconds_critical:
    description: A replica's replay is this many seconds behind, critical.
    type: float
    default: 60
  retained_wal_bytes_warning:
    description: A slot keeps this many bytes of WAL, a warning.
    type: int
    default: 1073741824
  retained_wal_bytes_critical:
    description: A slot keeps this many bytes of WAL, critical.
    type: int
    default: 8589934592
  archive_backlog_warning:
    description: This many WAL files wait to be archived, a warning.
    type: int
    default: 16
  archive_backlog_critical:
    description: This many WAL files wait to be archived, critical.
    type: int
    default: 128
  xid_age_warning:
    description:
      - A database is this many transactions (or multixacts) old, a warning.
      - PostgreSQL refuses writes a little before 2,147,483,648.
    type: int
    default: 500000000
  xid_age_critical:
    description: A database is this many transactions (or multixacts) old, critical.
    type: int
    default: 1500000000
  prepared_seconds_warning:
    description: A prepared transaction is open for this many seconds, a warning.
    type: float
    default: 300
  prepared_seconds_critical:
    description: A prepared transaction is open for this many seconds, critical.
    type: float
    default: 3600
  fail_on:
    description: The mildest severity at which the task fails. V(none) never fails because of findings.
    type: str
    choices: [none, warning, critical]
    default: critical
attributes:
  check_mode:
    description: Can run in check mode and returns the same, as it changes nothing.
    support: full
  diff_mode:
    description: There is no difference to show.
    support: none
"""

EXAMPLES = r"""
- name: Check the replication of PostgreSQL
  holdfast.persistence.postgresql_replication_check:
    patroni_urls: [https://198.18.7.11:8008, https://198.18.7.12:8008, https://198.18.7.13:8008]
    members:
      - {name: node1, host: 198.18.7.11}
      - {name: node2, host: 198.18.7.12}
      - {name: node3, host: 198.18.7.13}
    synchronous_mode: quorum
    login_password: "{{ cluster_postgresql_superuser_password }}"
    ca_cert: /etc/ssl/holdfast/ca.crt
    client_cert: /etc/ssl/holdfast/postgresql.pem
  become: true
  become_user: postgres
  run_once: true

- name: List what is wrong with a pair of servers without Patroni, and continue
  holdfast.persistence.postgresql_replication_check:
    members:
      - {name: first, host: 198.18.7.11}
      - {name: second, host: 198.18.7.12}
    login_password: "{{ cluster_postgresql_superuser_password }}"
    ca_cert: /etc/ssl/holdfast/ca.crt
    fail_on: none
"""

RETURN = r"""
findings:
  description: Every rule that does not hold, the gravest first.
  returned: always
  type: list
  elements: dict
  contains:
    rule:
      description: Name of the rule.
      type: str
    severity:
      description: V(info), V(warning) or V(critical).
      type: str
    where:
      description: Member, slot or database that it concerns.
      type: str
    found:
      description: What was found, with its unit.
      type: str
    allowed:
      description: What is allowed, with its unit.
      type: str
    remedy:
      description: What to do.
      type: str
  sample:
    - rule: slot_active
      severity: warning
      where: node1, slot node3
      found: a physical slot that nobody uses
      allowed: active
      remedy: "Bring its consumer back, or drop the slot: it keeps WAL until the disk is full."
worst:
  description: The highest severity among RV(findings), empty when there are none.
  returned: always
  type: str
  sample: warning
primary:
  description: Name of the server that takes writes, empty when none or several do.
  returned: always
  type: str
  sample: node1
members:
  description: What was read of each member. C(role) is V(primary), V(replica) or, for one that is silent, V(unknown).
  returned: always
  type: list
  elements: dict
  sample:
    - name: node2
      address: 198.18.7.12:5432
      role: replica
      timeline: 1
      lag_bytes: 0
      lag_seconds: 0.0
      sync_state: quorum
"""

import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import FAIL_ON, at_least, to_dict, worst
from ansible_collections.holdfast.persistence.plugins.module_utils.patroni.rest import Client, PatroniError
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.reader import (
    Target,
    find_driver,
    read_servers,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.replication import (
    Declared,
    Limits,
    check,
    patroni_silent,
    summarize,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.state import (
    mark_stalled,
    patroni_from_rest,
    waits_for_replay,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PAIRS = {
    "lag_bytes": "int",
    "lag_seconds": "float",
    "retained_wal_bytes": "int",
    "archive_backlog": "int",
    "xid_age": "int",
    "prepared_seconds": "float",
}


def main():
    """Read, judge, exit."""
    module = AnsibleModule(argument_spec=argument_spec(), supports_check_mode=True)
    try:
        findings, result = run(module.params, find_driver())
    except (Refusal, ValueError) as error:
        module.fail_json(msg=str(error))
    grave = at_least(findings, module.params["fail_on"])
    if grave:
        module.fail_json(msg=headline(grave), **result)
    module.exit_json(changed=False, **result)


def argument_spec():
    """Return the argument spec; the thresholds' defaults are those of Limits."""
    member = {
        "name": {"type": "str", "required": True},
        "host": {"type": "str", "required": True},
        "port": {"type": "int", "default": 5432},
    }
    ssl_modes = ["disable", "prefer", "require", "verify-ca", "verify-full"]
    thresholds = {
        f"{name}_{severity}": {"type": kind, "default": getattr(Limits(), name)[position]}
        for name, kind in PAIRS.items()
        for position, severity in enumerate(("warning", "critical"))
    }
    return {
        "members": {"type": "list", "elements": "dict", "default": [], "options": member},
        "patroni_urls": {"type": "list", "elements": "str", "default": []},
        "synchronous_mode": {"type": "str", "choices": ["off", "on", "quorum"]},
        "login_user": {"type": "str", "default": "postgres"},
        "login_password": {"type": "str", "no_log": True},
        "rewinds": {"type": "bool", "default": False},
        "login_db": {"type": "str", "default": "postgres"},
        "ssl_mode": {"type": "str", "choices": ssl_modes, "default": "verify-full"},
        "ca_cert": {"type": "path"},
        "client_cert": {"type": "path"},
        "timeout": {"type": "int", "default": 5},
        "settle": {"type": "float", "default": 1},
        "fail_on": {"type": "str", "choices": list(FAIL_ON), "default": "critical"},
        **thresholds,
    }


def run(params, driver):
    """Read the cluster and judge it.

    Parameters: params, the module's; driver, psycopg or psycopg2. Returns the findings and what the module returns.
    Raises ValueError for options that contradict each other, Refusal for answers that make no sense.
    """
    limits = limits_of(params)
    if not params["members"] and not params["patroni_urls"]:
        raise ValueError("nothing to check: give members, patroni_urls, or both")
    if params["patroni_urls"] and not (params["ca_cert"] and params["client_cert"]):
        raise ValueError("patroni_urls needs ca_cert and client_cert: Patroni is asked over verified TLS only")
    patroni, findings = read_patroni(params)
    servers = read_twice(targets_of(params, patroni), access_of(params), driver, params["settle"])
    members = tuple(member["name"] for member in params["members"])
    declared = Declared(members, params["synchronous_mode"], params["rewinds"])
    findings += check(servers, patroni, declared, limits)
    primaries = [server.name for server in servers if server.is_primary]
    return findings, {
        "findings": [to_dict(finding) for finding in findings],
        "worst": worst(findings) or "",
        "primary": primaries[0] if len(primaries) == 1 else "",
        "members": summarize(servers, patroni),
    }


def limits_of(params):
    """Return the Limits of the parameters. Raises ValueError when a critical threshold is below its warning."""
    pairs = {name: (params[f"{name}_warning"], params[f"{name}_critical"]) for name in PAIRS}
    for name, (warning, critical) in pairs.items():
        if critical < warning:
            raise ValueError(f"{name}_critical is {critical}, below {name}_warning, which is {warning}: raise it")
    return Limits(**pairs)


def read_patroni(params):
    """Return Patroni's view, None without one, and the findings about those members of it that do not answer."""
    errors = {}
    for url in params["patroni_urls"]:
        try:
            client = Client(url, params["ca_cert"], params["client_cert"], params["timeout"])
            cluster, config = client.get("/cluster"), client.get("/config")
        except PatroniError as error:
            errors[url] = error.found
            continue
        return patroni_from_rest(cluster, config), patroni_silent(errors, answered=True)
    return None, patroni_silent(errors, answered=False)


def targets_of(params, patroni):
    """Return the servers to ask: the declared ones, and those that only Patroni knows."""
    targets = {member["name"]: Target(member["name"], member["host"], member["port"]) for member in params["members"]}
    for member in patroni.cluster.members if patroni else ():
        if member.host:
            targets.setdefault(member.name, Target(member.name, member.host, member.port or 5432))
    return list(targets.values())


def access_of(params):
    """Return libpq's connection parameters, without host and port."""
    access = {
        "user": params["login_user"],
        "password": params["login_password"],
        "dbname": params["login_db"],
        "sslmode": params["ssl_mode"],
        "sslrootcert": params["ca_cert"],
        "sslcert": params["client_cert"],
        "sslkey": params["client_cert"],
        "connect_timeout": params["timeout"],
        "options": f"-c statement_timeout={params['timeout'] * 1000}",
        "application_name": "postgresql_replication_check",
    }
    return {name: value for name, value in access.items() if value is not None}


def read_twice(targets, access, driver, settle):
    """Read all servers; once more after `settle` seconds when a replica has WAL that it has not replayed."""
    servers = read_servers(targets, access, driver)
    if settle > 0 and any(waits_for_replay(server) for server in servers):
        time.sleep(settle)
        return mark_stalled(servers, read_servers(targets, access, driver))
    return servers


def headline(grave):
    """Return one line about the findings that make the task fail."""
    listed = "; ".join(f"{finding.where}: {finding.rule}: {finding.found}" for finding in grave)
    return f"PostgreSQL replication: {len(grave)} rules do not hold: {listed}"


if __name__ == "__main__":
    main()
