# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Action plugin kubernetes_manifests: writes the tier of an inventory as manifests for Kubernetes; see the module of its name."""

from __future__ import annotations

import datetime
import os
import pwd

import yaml
from ansible import template
from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible_collections.holdfast.persistence.plugins.lookup.secret import read_or_make
from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes import render
from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes.model import Postgresql, Tier, Valkey
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal, Refusals
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import RoleFiles
from ansible_collections.holdfast.persistence.plugins.plugin_utils.templates import plain
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.certificates import IMPORT_ERROR, Wish
from ansible_collections.holdfast.persistence.plugins.plugin_utils.tls.store import Store, Terms, read_if_there

HOST = "kubernetes"
CLIENT = "kubernetes"
POOLS = {
    "max_client_conn": "pgbouncer_max_client_connections",
    "default_pool_size": "pgbouncer_default_pool_size",
    "min_pool_size": "pgbouncer_min_pool_size",
    "reserve_pool_size": "pgbouncer_reserve_pool_size",
    "max_db_connections": "pgbouncer_max_database_connections",
    "max_user_connections": "pgbouncer_max_user_connections",
    "max_prepared_statements": "pgbouncer_max_prepared_statements",
    "query_wait_timeout": "pgbouncer_query_wait_timeout",
    "server_lifetime": "pgbouncer_server_lifetime",
    "server_idle_timeout": "pgbouncer_server_idle_timeout",
}


class ActionModule(ActionBase):
    """Runs on the controller alone; the task is delegated to localhost, where the files are written."""

    TRANSFERS_FILES = False

    def run(self, tmp=None, task_vars=None):
        """Render, and write what differs. Returns folder, changed_paths and stale."""
        super().run(tmp, task_vars)
        if IMPORT_ERROR is not None:
            raise AnsibleActionFail(
                f"certificates: {IMPORT_ERROR}: install the Python package cryptography, 42 or newer, for ansible-playbook"
            )
        _spec, arguments = self.validate_argument_spec({"options": {"type": "dict", "required": True}})
        inventory = Inventory(self._loader, task_vars, arguments["options"]["kubernetes_release"])
        try:
            tier = inventory.tier(arguments["options"])
            # Once without certificates, so that nothing is issued for what is refused.
            render.files(tier, {})
            issued, certificates = provide(inventory, tier, self._task.check_mode)
            files = render.files(tier, certificates)
        except Refusals as error:
            raise AnsibleActionFail("Nothing was written. " + "\n".join(error.problems)) from None
        except (Refusal, ValueError, OSError, AnsibleError) as error:
            raise AnsibleActionFail(f"Nothing was written. {error}") from None
        folder = arguments["options"]["kubernetes_dir"] or os.path.join(inventory.secrets, HOST)
        result = self._execute_module(
            module_name="holdfast.persistence.files",
            module_args={"files": wishes(os.path.abspath(folder), files)},
            task_vars=task_vars,
        )
        if result.get("failed"):
            return result
        stale = [os.path.join(folder, name) for name in render.FILES if name not in files]
        stale = [path for path in stale if os.path.exists(path)]
        if stale:
            result["warnings"] = [
                f"{path} is of an earlier run and no longer part of the tier: delete it" for path in stale
            ]
        result.update(folder=folder, stale=stale, issued=issued, changed=bool(result.get("changed") or issued))
        return result


class Inventory:
    """The inventory, with the roles' defaults where nothing is set, and without asking any host."""

    def __init__(self, loader, task_vars, release):
        self._loader, self._vars, self._release = loader, task_vars, release
        self._roles = RoleFiles(loader)
        self.secrets = self.value(task_vars["groups"]["all"][0], "cluster_secrets_dir")

    def value(self, host, name):
        """Return what a host has for a variable, None where nobody declares it. Raises AnsibleError."""
        raw = self._vars["hostvars"].raw_get(host)
        scope = {**self._roles.defaults, **raw, **self._roles.fixed, "hostvars": self._vars["hostvars"]}
        # Nothing of a machine counts there but its release.
        scope["ansible_facts"] = {"distribution_release": self._release, "memtotal_mb": 4096, "processor_vcpus": 2}
        return template.Templar(loader=self._loader, variables=scope).template(scope[name]) if name in scope else None

    def tier(self, options):
        """Return what manifests are made of. Raises AnsibleError, ValueError and OSError."""
        hosts = {group: self._vars["groups"].get(group, []) for group in ("postgresql", "valkey")}
        return Tier(
            name=self.value(self._vars["groups"]["all"][0], "cluster_name"),
            options=options,
            postgresql=self._postgresql(hosts["postgresql"]) if hosts["postgresql"] else None,
            valkey=self._valkey(hosts["valkey"]) if hosts["valkey"] else None,
        )

    def _postgresql(self, hosts):
        def value(name):
            return self.value(hosts[0], name)

        return Postgresql(
            instances=len(hosts),
            major=int(value("cluster_platform")["postgresql"]["version"]),
            release=self._release,
            parameters={**value("__patroni_parameters"), **value("patroni_parameters")},
            users=self._with_passwords(value("patroni_users"), "postgresql_user_"),
            databases=value("patroni_databases"),
            hosts=[self.value(host, "cluster_address") for host in hosts],
            repositories=self._repositories(hosts[0]),
            synchronous_mode=value("patroni_synchronous_mode"),
            synchronous_strict=value("patroni_synchronous_mode_strict"),
            synchronous_number=int(value("patroni_synchronous_node_count")),
            replication_networks=value("patroni_replication_networks"),
            application_networks=value("patroni_application_networks"),
            replication_password=value("cluster_postgresql_replication_password"),
            pool_mode=value("pgbouncer_pool_mode"),
            pools={name: value(variable) for name, variable in POOLS.items()},
        )

    def _repositories(self, host):
        """Return declared repositories; one that is computed lies on a host, which Kubernetes does not reach."""
        declared = "pgbackrest_repositories" in self._vars["hostvars"].raw_get(host)
        return self.value(host, "pgbackrest_repositories") if declared else []

    def _valkey(self, hosts):
        def value(name):
            return self.value(hosts[0], name)

        return Valkey(
            instances=sum(len(self.value(host, "valkey_instances")) for host in hosts),
            replicas=int(value("valkey_replicas")),
            version=value("cluster_platform")["valkey"]["version"],
            users=self._with_passwords(value("valkey_users"), "valkey_user_"),
            default_rules=value("valkey_user_rules"),
            node_timeout=int(value("valkey_node_timeout")),
            full_coverage=value("valkey_require_full_coverage"),
            policy=value("valkey_maxmemory_policy"),
            appendonly=value("valkey_appendonly"),
            appendfsync=value("valkey_appendfsync"),
            save=value("valkey_save"),
            settings=value("valkey_settings"),
            admin_password=value("cluster_valkey_admin_password"),
            replication_password=value("cluster_valkey_replication_password"),
        )

    def _with_passwords(self, users, prefix):
        return [
            {**user, "password": user.get("password") or read_or_make(self.secrets, prefix + user["name"], 32)}
            for user in users
        ]


def provide(inventory, tier, check_mode):
    """Return (what is issued and why, certificates by what they are for). Raises Refusals and OSError.

    In check mode a certificate that is missing stands in for itself, so that the rest can be shown.
    """
    host = inventory.value(inventory._vars["groups"]["all"][0], "inventory_hostname")
    folder = inventory.value(host, "tls_folder")
    if inventory.value(host, "tls_provider") == "own":
        raise Refusal(
            "tls_provider is own: certificates for Kubernetes are issued by the cluster's own authority only",
            "Make the Secrets of docs/kubernetes.md by your own PKI",
        )
    name = tier.name
    terms = Terms(
        name,
        datetime.datetime.now(datetime.UTC),
        *(int(inventory.value(host, variable)) for variable in ("tls_days", "tls_renew_days", "tls_ca_days")),
    )
    leaves = {"valkey": Wish(name, f"{name}-valkey", tuple(tier.valkey_names()))} if tier.valkey else {}
    over = tier.postgresql is not None and tier.options["kubernetes_bootstrap"] != "new"
    clients = {CLIENT: Wish(name, CLIENT, (), ("client",))} if over else {}
    if not leaves and not clients:
        return {}, {}
    outcome = Store(folder, terms, check_mode).provide(HOST, leaves, clients)
    found = {service: parts(outcome.ca, pem) for service, pem in outcome.pems.items()}
    if over:
        pair = [read_if_there(os.path.join(folder, "clients", CLIENT + end)) for end in (".key", ".crt")]
        pem = None if None in pair else b"".join(pair).decode()
        found["machines"] = parts(outcome.ca, pem)
    return outcome.issued, found


def parts(authority, pem):
    """Return a PEM of key and certificate, in this order, as a Secret of the type kubernetes.io/tls has it."""
    key, mark, certificate = (pem or "").partition("-----BEGIN CERTIFICATE-----")
    return {"ca.crt": authority or "", "tls.crt": mark + certificate, "tls.key": key}


def wishes(folder, files):
    """Return the argument of the module `files`: everything is the caller's own, secrets are nobody else's."""
    owner = pwd.getpwuid(os.getuid()).pw_name
    found = [{"path": folder, "owner": owner, "mode": "0700"}]
    for name, manifests in files.items():
        secret = name == render.SECRETS
        content = yaml.safe_dump_all(plain(manifests), sort_keys=False, width=140, explicit_start=True)
        mode = "0600" if secret else "0644"
        found.append(
            {"path": os.path.join(folder, name), "content": content, "owner": owner, "mode": mode, "sensitive": secret}
        )
    return found
