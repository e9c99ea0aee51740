# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""From the answers of modules to one plain model of the whole cluster, printed as text or as JSON. No I/O."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.haproxy.stats import routes
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.state import normalize_mode

ENGINES = ("patroni", "etcd", "valkey")
FRONTENDS = ("read_write", "read_only", "synchronous")
NO_HOST = {"errors": ["no host of its group can be reached"]}
Answer = Mapping[str, Any]


def build(
    *,
    cluster: str,
    time: str,
    timing: str,
    vip: str,
    addresses: Mapping[str, str],
    engines: Collection[str],
    answers: Mapping[str, Sequence[Answer]],
    declared: Mapping[str, Any] | None = None,
    authorities: Collection[str] = (),
) -> dict[str, Any]:
    """Return the model.

    Parameters: cluster, its name; time, of the reading; timing, the profile; vip, empty for none; addresses by host;
    engines that the inventory has (etcd, patroni, valkey); answers by kind (host, haproxy, pgbouncer and the engines),
    one for each host in the order of addresses, empty where the host was not asked; asked, served, backup and programs may be missing;
    declared, timings that Patroni should have, in seconds; authorities, digests of those that the controller has.
    """
    served = answers.get("served") or [{}] * len(addresses)
    programs = answers.get("programs") or [{}] * len(addresses)
    hosts = [
        _host(name, address, answer, shown, own)
        for (name, address), answer, shown, own in zip(
            addresses.items(), answers["host"], served, programs, strict=True
        )
    ]
    told = {engine: next(filter(None, answers[engine]), NO_HOST) if engine in engines else None for engine in ENGINES}
    return {
        "cluster": cluster,
        "time": time,
        "timing": timing,
        "declared": dict(declared or {}),
        "authorities": list(authorities),
        "vip": {"address": vip, "holders": [host["name"] for host in hosts if vip and vip in host["addresses"]]},
        "hosts": hosts,
        "patroni": _patroni(told["patroni"]),
        "etcd": _etcd(told["etcd"]),
        "routing": [_routing(*item) for item in zip(addresses, answers["haproxy"], strict=True) if item[1]],
        "asked": _asked(next(filter(None, answers.get("asked") or []), None)),
        "pools": [_pools(*item) for item in zip(addresses, answers["pgbouncer"], strict=True) if item[1]],
        "valkey": _valkey(told["valkey"], addresses),
        "backup": [
            _backup(*item) for item in zip(addresses, answers.get("backup") or [], strict=False) if "errors" in item[1]
        ],
    }


def _host(name: str, address: str, answer: Answer, shown: Answer, own: Answer) -> dict[str, Any]:
    result = answer.get("result") or {}
    return {
        "name": name,
        "address": address,
        "error": None if result else one_line("; ".join(answer.get("errors", []))) or "not asked",
        "units": list(result.get("units", [])),
        "certificates": list(result.get("certificates", [])),
        "authorities": list(result.get("authorities", [])),
        "restarted_by": list(result.get("restarted_by", [])),
        "served": dict((shown.get("result") or {}).get("problems", {})),
        "addresses": list(result.get("addresses", [])),
        "programs": [dict(program) for program in own.get("programs", [])],
        "programs_error": one_line("; ".join(own.get("errors", []))),
    }


def one_line(text: object) -> str:
    """Return a message without its line breaks."""
    return " ".join(str(text or "").split())


def _patroni(answer: Answer | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    result = answer.get("result") or {}
    return {
        "errors": list(answer.get("errors", [])),
        "answered_by": answer.get("answered_by", ""),
        "leader": result.get("leader", ""),
        "timeline": result.get("timeline"),
        "paused": result.get("paused", False),
        "synchronous_mode": normalize_mode((result.get("config") or {}).get("synchronous_mode", False)),
        "timing": {name: (result.get("config") or {}).get(name) for name in ("ttl", "loop_wait", "retry_timeout")},
        "synchronous": list(result.get("synchronous", [])),
        "members": [dict(member) for member in result.get("members", [])],
        "history": [dict(line) for line in result.get("history", [])][-3:],
    }


def _etcd(answer: Answer | None) -> dict[str, Any] | None:
    if answer is None:
        return None
    result = answer.get("result") or {}
    cluster = result.get("cluster") or {}
    return {
        "errors": list(answer.get("errors", [])),
        "leader": cluster.get("leader") or "",
        "quorum": cluster.get("quorum"),
        "margin": cluster.get("margin"),
        "members": [_etcd_member(member) for member in cluster.get("members", [])],
        "findings": [dict(finding) for finding in result.get("findings", [])],
    }


def _etcd_member(member: Answer) -> dict[str, Any]:
    status = member.get("status") or {}
    return {
        "name": member["name"],
        "learner": member.get("is_learner", False),
        "error": one_line(member.get("error")),
        "version": status.get("version", ""),
        "db_size": status.get("db_size"),
        "raft_term": status.get("raft_term"),
    }


def _routing(name: str, answer: Answer) -> dict[str, Any]:
    to = (
        {frontend: routes(dict(answer), f"{frontend}_members") for frontend in FRONTENDS} if not answer["error"] else {}
    )
    return {"balancer": name, "error": answer["error"], "routes": to}


def _asked(answer: Answer | None) -> dict[str, Any] | None:
    """What came back through the balancers, None where nobody was asked."""
    if answer is None:
        return None
    result = answer.get("result") or {}
    return {
        "errors": list(answer.get("errors", [])) if not result else [],
        "answers": [dict(line) for line in result.get("answers", [])],
        "settings": dict(result.get("settings", {})),
    }


def _pools(name: str, answer: Answer) -> dict[str, Any]:
    return {
        "balancer": name,
        "error": answer["error"],
        "version": answer["version"],
        "pools": [dict(pool) for pool in answer["pools"]],
        "paused": [database["name"] for database in answer["databases"] if database["paused"]],
    }


def _backup(name: str, answer: Answer) -> dict[str, Any]:
    result = answer.get("result") or {}
    return {
        "host": name,
        "errors": [] if result else list(answer.get("errors", [])),
        **{key: list(result.get(key, [])) for key in ("summary", "backups", "jobs", "findings")},
        "repositories": dict(result.get("repositories", {})),
    }


def _valkey(answer: Answer | None, addresses: Mapping[str, str]) -> dict[str, Any] | None:
    if answer is None:
        return None
    names = {address: name for name, address in addresses.items()}
    result = answer.get("result") or {}
    nodes = [{**node, "host": names.get(node["address"], node["address"])} for node in result.get("nodes", [])]
    keys = ("state", "slots_assigned", "slots_ok", "primaries", "replicas", "agree", "keys")
    return {
        "errors": list(answer.get("errors", [])),
        "answered_by": answer.get("answered_by", ""),
        **{key: result.get(key) for key in keys},
        "nodes": nodes,
    }
