# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Rules over the whole cluster that no engine's own check covers, and the text of all findings. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.findings import Finding, by_severity

Model = Mapping[str, Any]


def judge(
    model: Model, checks: Mapping[str, Model | None], certificate_days: tuple[int, int] = (30, 7)
) -> list[Finding]:
    """Return all findings, the gravest first.

    Parameters: model, of model.build; checks, answers of the engines' check modules by engine, None for an engine that
    the inventory does not have; certificate_days, from how many days left downwards a certificate is a warning, critical.
    """
    findings = [*_hosts(model["hosts"], certificate_days), *_authorities(model), *_address(model["vip"])]
    findings += [*_routing(model), *_asked(model), *_pools(model["pools"]), *_timing(model)]
    findings += _told(model["etcd"]["findings"]) if model["etcd"] else []
    for engine, answer in {**checks, "etcd": _etcd_answer(model["etcd"])}.items():
        if answer is not None:
            findings += _check(engine, answer)
    findings += _backup(model.get("backup") or [])
    return by_severity(findings)


def _backup(answers: Iterable[Model]) -> Iterator[Finding]:
    for answer in answers:
        for error in answer["errors"]:
            yield Finding(
                "backups_answer",
                "critical",
                answer["host"],
                error,
                "the host reports its backups",
                f"Run site.yml, then holdfast-backup catalogue on {answer['host']}.",
            )
        yield from _told(answer["findings"])


def _hosts(hosts: Iterable[Model], certificate_days: tuple[int, int]) -> Iterator[Finding]:
    for host in hosts:
        name = host["name"]
        if host["error"]:
            yield Finding(
                "host_reachable",
                "critical",
                name,
                host["error"],
                "Ansible reaches the host",
                "Start the host or repair its network; if the host is lost for good, run remove_node.yml.",
            )
        for unit in host["units"]:
            if unit["state"] != "active":
                yield Finding(
                    "service_runs",
                    "critical",
                    name,
                    f"{unit['name']} is {unit['state']}",
                    "active",
                    f"Read journalctl -u {unit['name']} on {name}; site.yml starts it again.",
                )
        if host["restarted_by"]:
            yield Finding(
                "restarts_held",
                "warning",
                name,
                f"{'; '.join(host['restarted_by'])}: restarted by an upgrade of packages at any time",
                "only update.yml restarts the cluster's services",
                "Run site.yml; where the host has a policy-rc.d of its own, let that one answer 101 for these services.",
            )
        for certificate in host["certificates"]:
            yield from _certificate(name, certificate, certificate_days)
        for server, problem in host["served"].items():
            yield Finding(
                "certificate_in_use",
                "critical",
                f"{name}, {server}",
                problem,
                "it uses the certificates on disk",
                "Run site.yml, or a rotation of certificates again; then read the service's journal.",
            )
        yield from _programs(host)


def _programs(host: Model) -> Iterator[Finding]:
    """The collection's own programs: there, whole, and of the collection that checks. What runs without its file ends for good."""
    if host.get("programs_error"):
        yield Finding(
            "program_current",
            "critical",
            host["name"],
            host["programs_error"],
            "the host reports the collection's programs",
            "Repair what the message names, then check again.",
        )
    for program in host.get("programs", []):
        if program["state"] != "current":
            yield Finding(
                "program_current",
                "critical" if program["state"] == "missing" else "warning",
                f"{host['name']}, {program['name']}",
                program["found"],
                f"version {program['wanted']}, of the collection that checks",
                "Run site.yml: it installs the collection's programs.",
            )


def _authorities(model: Model) -> Iterator[Finding]:
    """Hosts trust each other where they have an authority in common, and obey a controller that has it, too."""
    trusting = [host for host in model["hosts"] if host["authorities"]]
    common = set.intersection(*(set(host["authorities"]) for host in trusting)) if trusting else set()
    if trusting and not common:
        groups: dict[tuple[str, ...], list[str]] = {}
        for host in trusting:
            groups.setdefault(tuple(host["authorities"]), []).append(host["name"])
        yield Finding(
            "authority_shared",
            "critical",
            "certificates",
            "; ".join(
                f"{', '.join(names)} trust {' and '.join(one[:12] for one in held)}" for held, names in groups.items()
            ),
            "an authority that all hosts trust",
            "Bring the controller's folder of secrets with which the cluster was set up, then run site.yml; "
            "open connections work until then, new ones fail.",
        )
    for host in trusting if common else []:
        if not set(model["authorities"]) & set(host["authorities"]):
            yield Finding(
                "authority_known",
                "critical",
                host["name"],
                "certificates of an authority that this controller does not have",
                "the controller's folder of secrets is the cluster's",
                "Bring the folder of secrets from the controller that has it; change nothing from here before.",
            )


def _certificate(host: str, certificate: Model, limits: tuple[int, int]) -> Iterator[Finding]:
    warning, critical = limits
    days = certificate["days_left"]
    if days <= warning:
        yield Finding(
            "certificate_lasts",
            "critical" if days <= critical else "warning",
            f"{host}, {certificate['file']}",
            f"{days} days left",
            f"more than {warning} (critical from {critical})",
            "Run site.yml: it renews certificates in time.",
        )


def _address(vip: Model) -> Iterator[Finding]:
    if vip["address"] and len(vip["holders"]) != 1:
        yield Finding(
            "address_held",
            "critical",
            vip["address"],
            f"held by {' and '.join(vip['holders']) or 'no host'}",
            "held by one host",
            "Look at keepalived, PgBouncer and HAProxy on the balancers, and whether VRRP passes between them.",
        )


def _routing(model: Model) -> Iterator[Finding]:
    leader = (model["patroni"] or {}).get("leader")
    for line in model["routing"]:
        balancer = line["balancer"]
        if line["error"]:
            yield _silent("HAProxy", balancer, line["error"])
            continue
        to = line["routes"]["read_write"]
        if leader and to != [leader]:
            yield Finding(
                "routes_to_leader",
                "critical",
                f"{balancer}, read-write",
                f"HAProxy sends to {', '.join(to) or 'nobody'}",
                f"{leader}, Patroni's leader",
                f"Look at HAProxy's checks on {balancer}: it must reach Patroni's REST API of {leader}.",
            )
        for frontend in ("read_only", "synchronous"):
            if not line["routes"][frontend] and len(model["patroni"]["members"] if model["patroni"] else []) > 1:
                yield Finding(
                    "routes_to_replicas",
                    "warning",
                    f"{balancer}, {frontend.replace('_', '-')}",
                    "HAProxy sends to nobody",
                    "at least one replica",
                    "Look at the replicas' state and lag, then at HAProxy's checks.",
                )


def _asked(model: Model) -> Iterator[Finding]:
    """What clients get behind each port of each balancer, in place of what HAProxy believes."""
    asked, leader = model["asked"], (model["patroni"] or {}).get("leader")
    if asked is None:
        return
    for error in asked["errors"]:
        yield Finding(
            "routes_answered",
            "critical",
            "balancers",
            error,
            "a PostgreSQL host asks through every balancer",
            "Repair what the message names, then check again.",
        )
    for line in asked["answers"]:
        where = f"{line['balancer']}, {line['port'].replace('_', '-')}"
        if line["error"]:
            yield Finding(
                "routes_answered",
                "critical" if line["port"] == "read_write" else "warning",
                where,
                line["error"],
                "a server answers",
                f"Look at HAProxy of {line['balancer']} and at the servers that it sends to.",
            )
        elif line["port"] == "read_write" and (line["replica"] or (leader and line["member"] != leader)):
            yield Finding(
                "routes_answered",
                "critical",
                where,
                f"{line['member']} answers" + (", a replica" if line["replica"] else ""),
                f"{leader or 'the leader'} answers",
                f"Look at HAProxy's checks on {line['balancer']}; clients there can't write.",
            )


def _timing(model: Model) -> Iterator[Finding]:
    found = (model["patroni"] or {}).get("timing") or {}
    for name, wished in model["declared"].items():
        if found.get(name) is not None and found[name] != wished:
            yield Finding(
                "timing_in_force",
                "warning",
                f"Patroni, {name}",
                f"{found[name]} s",
                f"{wished} s, of the profile {model['timing']}",
                "Run site.yml: it declares the dynamic configuration.",
            )


def _pools(pools: Iterable[Model]) -> Iterator[Finding]:
    for line in pools:
        if line["error"]:
            yield _silent("PgBouncer", line["balancer"], line["error"])
        for database in line["paused"]:
            yield Finding(
                "pool_serves",
                "warning",
                f"{line['balancer']}, database {database}",
                "paused",
                "not paused",
                "RESUME it on PgBouncer's console, unless a switchover is under way.",
            )


def _silent(service: str, host: str, error: str) -> Finding:
    unit = service.lower()
    return Finding(
        f"{unit}_answers",
        "critical",
        host,
        error,
        "an answer",
        f"Start it: `systemctl status {unit}` shows why it stopped.",
    )


def _etcd_answer(etcd: Model | None) -> Model | None:
    return (
        None if etcd is None else {"errors": etcd["errors"], "result": {"findings": []} if not etcd["errors"] else {}}
    )


def _check(engine: str, answer: Model) -> Iterator[Finding]:
    """The findings of an engine's check module; that it could not run is a finding too."""
    result = answer.get("result") or {}
    yield from _told(result.get("findings", []))
    if "findings" not in result:
        yield Finding(
            "check_ran",
            "critical",
            engine,
            "; ".join(answer.get("errors", [])) or "no host of its group can be reached",
            "its rules can be checked",
            "Repair what the message names, then check again.",
        )


def _told(findings: Iterable[Model]) -> list[Finding]:
    return [Finding(**finding) for finding in findings]


def text(cluster: str, findings: Sequence[Finding]) -> list[str]:
    """Return the findings as lines for a person."""
    lines = ["", f"{cluster}: {headline(findings)}"]
    for finding in findings:
        lines += [
            "",
            f"{finding.severity.upper()}  {finding.where}  [{finding.rule}]",
            f"    found    {finding.found}",
            f"    allowed  {finding.allowed}",
            f"    remedy   {finding.remedy}",
        ]
    return [*lines, ""]


def headline(findings: Sequence[Finding]) -> str:
    """Return how many findings there are of each severity."""
    counts = [
        f"{count} {severity}"
        for severity in ("critical", "warning", "info")
        if (count := sum(finding.severity == severity for finding in findings))
    ]
    return ", ".join(counts) or "every rule holds"
