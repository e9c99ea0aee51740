# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Valkey as a StatefulSet that survives new addresses of its pods. No I/O."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes.model import (
    Manifest,
    Tier,
    Valkey,
    manifest,
    mebibytes,
    secret,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

PORT = 6379
BUS = 16379
# The user of the image valkey/valkey.
USER = 999
CONFIG, TLS, DATA = "/etc/valkey", "/etc/valkey-tls", "/data"
JOBS = "/etc/holdfast"


def manifests(tier: Tier) -> list[Manifest]:
    """Return everything but the secret of the certificate. Raises Refusal."""
    valkey = tier.valkey
    if valkey is None:
        return []
    _refuse(tier, valkey)
    name = f"{tier.name}-valkey"
    labels = {"app.kubernetes.io/name": "valkey", "app.kubernetes.io/instance": name}
    ports = [_port("valkey", PORT), _port("bus", BUS)]
    headless = {"clusterIP": "None", "publishNotReadyAddresses": True, "selector": labels, "ports": ports}
    files = {"valkey.conf": config(tier, valkey), "users.acl": users(valkey), "admin-password": valkey.admin_password}
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return [
        secret(tier, name, files),
        manifest("v1", "Service", tier, name, spec=headless),
        manifest("v1", "Service", tier, f"{name}-clients", spec={"selector": labels, "ports": ports[:1]}),
        manifest(
            "policy/v1",
            "PodDisruptionBudget",
            tier,
            name,
            spec={"maxUnavailable": 1, "selector": {"matchLabels": labels}},
        ),
        manifest("apps/v1", "StatefulSet", tier, name, spec=_stateful(tier, valkey, labels, digest)),
        manifest(
            "v1",
            "ConfigMap",
            tier,
            f"{name}-jobs",
            data={"form.yml": form(tier, valkey), "meet.yml": meet(tier, valkey)},
        ),
        manifest("batch/v1", "Job", tier, f"{name}-form", spec=_job(tier, "form.yml")),
        manifest("batch/v1", "CronJob", tier, f"{name}-meet", spec=_cron(tier)),
    ]


def pods(tier: Tier, valkey: Valkey) -> list[dict[str, Any]]:
    """Return the servers as our modules take them, by the names that stay when addresses change."""
    service = f"{tier.name}-valkey"
    return [
        {
            "address": f"{service}-{number}.{service}.{tier.namespace}.svc.{tier.options['kubernetes_domain']}",
            "port": PORT,
            "host": f"{service}-{number}",
        }
        for number in range(valkey.instances)
    ]


def config(tier: Tier, valkey: Valkey) -> str:
    """Return valkey.conf. What differs from pod to pod, and from start to start, is on the command line."""
    memory = mebibytes("kubernetes_valkey_memory", tier.options["kubernetes_valkey_memory"]) * 6 // 10
    newer = tuple(int(part) for part in valkey.version.split(".")[:2]) >= (9, 0)
    lines = {
        "bind": "* -::*",
        "port": "0",
        "tls-port": str(PORT),
        "tls-cert-file": f"{TLS}/tls.crt",
        "tls-key-file": f"{TLS}/tls.key",
        "tls-ca-cert-file": f"{TLS}/ca.crt",
        "tls-auth-clients": "yes",
        "tls-replication": "yes",
        "tls-cluster": "yes",
        "tls-protocols": '"TLSv1.2 TLSv1.3"',
        "aclfile": f"{CONFIG}/users.acl",
        "primaryuser": "replication",
        "primaryauth": valkey.replication_password,
        "dir": DATA,
        "maxmemory": f"{memory}mb",
        "maxmemory-policy": valkey.policy,
        "save": " ".join(valkey.save) or '""',
        "appendonly": "yes" if valkey.appendonly else "no",
        "appendfsync": valkey.appendfsync,
        "cluster-enabled": "yes",
        "cluster-config-file": "nodes.conf",
        "cluster-node-timeout": str(valkey.node_timeout),
        # Certificates carry names, and a client that is sent to an address could not verify it.
        "cluster-preferred-endpoint-type": "hostname",
        "cluster-require-full-coverage": "yes" if valkey.full_coverage else "no",
        "cluster-allow-replica-migration": "no",
        **({"shutdown-on-sigterm": "failover"} if newer else {}),
        **{name: str(value) for name, value in valkey.settings.items()},
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def users(valkey: Valkey) -> str:
    """Return the file of ACL users, with hashes of passwords."""
    lines = [
        "user default off resetchannels -@all",
        f"user admin on {_hash(valkey.admin_password)} ~* &* +@all",
        f"user replication on {_hash(valkey.replication_password)} resetchannels -@all +psync +replconf +ping"
        + (" +cluster|syncslots" if not valkey.version.startswith("8.") else ""),
        # For probes, which would have to carry a password in the manifest otherwise. A certificate is needed anyway.
        "user probe on nopass resetchannels -@all +ping",
    ]
    rules = ((user, user.get("rules") or valkey.default_rules) for user in valkey.users)
    return (
        "\n".join([*lines, *(f"user {user['name']} on {_hash(user['password'])} {rule}" for user, rule in rules)])
        + "\n"
    )


def form(tier: Tier, valkey: Valkey) -> str:
    """Return the playbook that makes the cluster, and adds pods to it; it changes nothing where all is well."""
    arguments = {**_login(tier), "nodes": pods(tier, valkey), "replicas": valkey.replicas}
    return _play(
        "Form the cluster",
        [("Join what moved", "valkey_meet", _meeting(tier, valkey)), ("Form the cluster", "valkey_cluster", arguments)],
    )


def meet(tier: Tier, valkey: Valkey) -> str:
    """Return the playbook that joins pods again after all of them came back with new addresses."""
    return _play("Join pods that moved", [("Join what moved", "valkey_meet", _meeting(tier, valkey))])


def _meeting(tier: Tier, valkey: Valkey) -> dict[str, Any]:
    return {**_login(tier), "nodes": pods(tier, valkey)}


def _login(tier: Tier) -> dict[str, Any]:
    return {
        "username": "admin",
        "password": "{{ lookup('ansible.builtin.file', '" + CONFIG + "/admin-password') }}",
        "tls": True,
        "ca_cert": f"{TLS}/ca.crt",
        "client_cert": f"{TLS}/tls.crt",
        "client_key": f"{TLS}/tls.key",
        "server_name": f"{tier.name}-valkey",
    }


def _play(name: str, tasks: list[tuple[str, str, dict[str, Any]]]) -> str:
    """Return a playbook as JSON, which is YAML."""
    steps = [
        {
            "name": title,
            f"holdfast.persistence.{module}": arguments,
            "register": "done",
            "until": "done is succeeded",
            "retries": 30,
            "delay": 2,
        }
        for title, module, arguments in tasks
    ]
    play = {
        "name": name,
        "hosts": "localhost",
        "connection": "local",
        "gather_facts": False,
        "vars": {"ansible_python_interpreter": "{{ ansible_playbook_python }}"},
        "tasks": steps,
    }
    return json.dumps([play], indent=2) + "\n"


def _hash(password: str) -> str:
    return "#" + hashlib.sha256(password.encode()).hexdigest()


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "port": number, "targetPort": number}


def _refuse(tier: Tier, valkey: Valkey) -> None:
    if not tier.options["kubernetes_image"]:
        raise Refusal(
            "kubernetes_image is empty: the jobs that form and join Valkey's cluster need an image with this collection",
            "Build one by ansible-builder (docs/kubernetes.md) and name it",
        )
    primaries = valkey.instances // (valkey.replicas + 1)
    if primaries < 3:
        raise Refusal(
            f"valkey_instances make {valkey.instances} pods, with valkey_replicas {valkey.replicas} that is {primaries} primaries:"
            " allowed are three and more, as fewer cannot elect",
            "Declare more instances",
        )


def _probe(seconds: int, failures: int) -> dict[str, Any]:
    command = [
        "valkey-cli",
        "-e",
        "--no-auth-warning",
        "--user",
        "probe",
        "--pass",
        "none",
        "--tls",
        "--cacert",
        f"{TLS}/ca.crt",
    ]
    command += ["--cert", f"{TLS}/tls.crt", "--key", f"{TLS}/tls.key", "-p", str(PORT), "PING"]
    return {"exec": {"command": command}, "periodSeconds": seconds, "timeoutSeconds": 5, "failureThreshold": failures}


def command_line(tier: Tier) -> list[str]:
    """Return the arguments of valkey-server: the address that the pod has now, and the name that it has for good, at each start."""
    service = f"{tier.name}-valkey"
    name = f"$(POD_NAME).{service}.{tier.namespace}.svc.{tier.options['kubernetes_domain']}"
    words = [f"{CONFIG}/valkey.conf", "--cluster-announce-ip", "$(POD_IP)", "--cluster-announce-hostname", name]
    return [*words, "--cluster-announce-human-nodename", "$(POD_NAME)"]


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _mounts() -> list[dict[str, Any]]:
    return [
        {"name": "config", "mountPath": CONFIG, "readOnly": True},
        {"name": "tls", "mountPath": TLS, "readOnly": True},
    ]


def _volumes(tier: Tier) -> list[dict[str, Any]]:
    name = f"{tier.name}-valkey"
    pairs = (("config", name), ("tls", f"{name}-tls"))
    return [{"name": volume, "secret": {"secretName": source, "defaultMode": 0o440}} for volume, source in pairs]


def _confined(user: int) -> dict[str, Any]:
    return {
        "runAsNonRoot": True,
        "runAsUser": user,
        "runAsGroup": user,
        "fsGroup": user,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


CONTAINED = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}


def _spread(tier: Tier, labels: dict[str, str]) -> dict[str, Any]:
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": "kubernetes.io/hostname"}
    if tier.options["kubernetes_spread"] == "required":
        return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
    weighted = {"weight": 100, "podAffinityTerm": term}
    return {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [weighted]}}


def _stateful(tier: Tier, valkey: Valkey, labels: dict[str, str], digest: str) -> dict[str, Any]:
    options = tier.options
    mebibytes("kubernetes_valkey_storage", options["kubernetes_valkey_storage"])
    memory = options["kubernetes_valkey_memory"]
    claim: dict[str, Any] = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": options["kubernetes_valkey_storage"]}},
    }
    if options["kubernetes_storage_class"]:
        claim["storageClassName"] = options["kubernetes_storage_class"]
    container = {
        "name": "valkey",
        "image": options["kubernetes_valkey_image"] or f"valkey/valkey:{valkey.version}",
        "command": ["valkey-server"],
        "args": command_line(tier),
        "env": [_field("POD_IP", "status.podIP"), _field("POD_NAME", "metadata.name")],
        "ports": [{"name": "valkey", "containerPort": PORT}, {"name": "bus", "containerPort": BUS}],
        # PING says LOADING, an error, while the data is read: such a server lives but is not ready.
        "startupProbe": _probe(5, 360),
        "readinessProbe": _probe(5, 3),
        "livenessProbe": _probe(10, 6),
        "resources": {
            "requests": {"cpu": options["kubernetes_valkey_cpu"], "memory": memory},
            "limits": {"memory": memory},
        },
        "securityContext": CONTAINED,
        "volumeMounts": [{"name": "data", "mountPath": DATA}, *_mounts()],
    }
    zones = {"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "ScheduleAnyway"}
    pod = {
        # Passwords and rules are read at the start only.
        "metadata": {"labels": labels, "annotations": {"holdfast/config": digest}},
        "spec": {
            "terminationGracePeriodSeconds": 60,
            "automountServiceAccountToken": False,
            "securityContext": _confined(USER),
            "affinity": _spread(tier, labels),
            "topologySpreadConstraints": [{**zones, "labelSelector": {"matchLabels": labels}}],
            "containers": [container],
            "volumes": _volumes(tier),
        },
    }
    return {
        "serviceName": f"{tier.name}-valkey",
        "replicas": valkey.instances,
        "podManagementPolicy": "Parallel",
        "minReadySeconds": 30,
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "selector": {"matchLabels": labels},
        "template": pod,
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    }


def _job(tier: Tier, playbook: str) -> dict[str, Any]:
    container = {
        "name": "ansible",
        "image": tier.options["kubernetes_image"],
        "command": ["ansible-playbook", f"{JOBS}/{playbook}"],
        "env": [
            {"name": name, "value": value}
            for name, value in (
                ("HOME", "/tmp"),
                ("ANSIBLE_HOME", "/tmp/.ansible"),
                ("ANSIBLE_LOCALHOST_WARNING", "false"),
            )
        ],
        "securityContext": CONTAINED,
        "volumeMounts": [
            {"name": "jobs", "mountPath": JOBS, "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},
            *_mounts(),
        ],
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": _confined(1000),
        "containers": [container],
        "volumes": [
            {"name": "jobs", "configMap": {"name": f"{tier.name}-valkey-jobs"}},
            {"name": "tmp", "emptyDir": {}},
            *_volumes(tier),
        ],
    }
    return {"backoffLimit": 10, "template": {"spec": pod}}


def _cron(tier: Tier) -> dict[str, Any]:
    return {
        "schedule": "* * * * *",
        "concurrencyPolicy": "Forbid",
        "startingDeadlineSeconds": 60,
        "successfulJobsHistoryLimit": 1,
        "failedJobsHistoryLimit": 3,
        "jobTemplate": {"spec": {**_job(tier, "meet.yml"), "backoffLimit": 0, "activeDeadlineSeconds": 300}},
    }
