# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The model of a cluster as one screen of text. No I/O."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.status.model import one_line

Model = Mapping[str, Any]
# 12, 0.2 s, 1.5 KiB
NUMBER = re.compile(r"\d+(\.\d+)?( [A-Za-z]+)?$")
NUMBER_OR_NONE = re.compile(rf"{NUMBER.pattern}|-?$")


def render(model: Model) -> list[str]:
    """Return the lines of the screen for a model that model.build made."""
    sections = [
        _head(model),
        _hosts(model["hosts"]),
        _patroni(model["patroni"]),
        _settings(model["asked"]),
        _etcd(model["etcd"]),
        _routing(model["routing"], model["asked"]),
        _pools(model["pools"]),
        _valkey(model["valkey"]),
        _backup(model.get("backup") or []),
    ]
    lines: list[str] = []
    for section in sections:
        if section:
            lines += ["", *section]
    return [*lines, ""]


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Return a table, indented by two: columns of numbers to the right, others to the left; `-` where nobody knows."""
    cells = [list(header), *(["-" if value is None else str(value) for value in row] for row in rows)]
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    right = [any(map(NUMBER.match, column)) and all(map(NUMBER_OR_NONE.match, column[1:])) for column in columns]
    return ["  " + "  ".join(map(_pad, row, widths, right)).rstrip() for row in cells]


def _pad(text: str, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def size(count: int | None) -> str:
    """Return bytes for people: 0 B, 1.5 KiB, 20 MiB."""
    if count is None:
        return "-"
    value, units = float(count), ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= 1024 and len(units) > 1:
        value /= 1024
        units.pop(0)
    return f"{value:.0f} {units[0]}" if value >= 10 or value == int(value) else f"{value:.1f} {units[0]}"


def _head(model: Model) -> list[str]:
    vip = model["vip"]
    address = ""
    if vip["address"]:
        address = f", address {vip['address']} on {' and '.join(vip['holders']) or 'NO HOST'}"
    return [f"{model['cluster']}: {len(model['hosts'])} hosts, timing {model['timing']}{address}  ({model['time']})"]


def _hosts(hosts: Sequence[Model]) -> list[str]:
    lines = table(("host", "address", "services", "certificates"), map(_host, hosts))
    return ["HOSTS", *lines, *_silent(hosts, "name")]


def _host(host: Model) -> tuple[str, ...]:
    if host["error"]:
        return host["name"], host["address"], "UNREACHABLE", ""
    bad = [
        f"{unit['name'].removesuffix('.service')} {unit['state'].upper()}"
        for unit in host["units"]
        if unit["state"] != "active"
    ]
    services = ", ".join(bad) or f"{len(host['units'])} running"
    soonest = min(host["certificates"], key=lambda certificate: certificate["days_left"], default=None)
    if soonest is None:
        return host["name"], host["address"], services, "none"
    days = soonest["days_left"]
    certificates = f"{days} days" if days >= 0 else f"{soonest['file']} EXPIRED {-days} days ago"
    return host["name"], host["address"], services, certificates


def _patroni(patroni: Model | None) -> list[str]:
    if patroni is None:
        return []
    if not patroni["members"]:
        return ["POSTGRESQL  NO ANSWER", *_errors(patroni)]
    mode = {"off": "asynchronous", "on": "synchronous", "quorum": "quorum commit"}[patroni["synchronous_mode"]]
    followers = f" with {', '.join(patroni['synchronous']) or 'NOBODY'}" if patroni["synchronous_mode"] != "off" else ""
    timing = ", ".join(f"{name} {value} s" for name, value in patroni["timing"].items() if value is not None)
    paused = "  PAUSED" if patroni["paused"] else ""
    title = f"POSTGRESQL  leader {patroni['leader'] or 'NONE'}, {mode}{followers}, {timing}{paused}"
    rows = [
        (
            member["name"],
            member["role"].replace("_", " "),
            member["state"],
            member["timeline"],
            "" if member["role"] in ("leader", "standby_leader") else size(member["lag"]),
            "restart pending" if member["pending_restart"] else "",
        )
        for member in patroni["members"]
    ]
    history = [f"  {_promotion(line)}" for line in patroni["history"]]
    return [title, *table(("member", "role", "state", "timeline", "lag", "note"), rows), *history, *_errors(patroni)]


def _promotion(line: Model) -> str:
    when = line["timestamp"].partition(".")[0].replace("T", " ")
    leader = f", then led {line['new_leader']}" if line["new_leader"] else ""
    return f"timeline {line['timeline']} ended {when}".rstrip() + leader


def _settings(asked: Model | None) -> list[str]:
    """The settings of the primary that are computed or that clients feel, a few a line."""
    if asked is None or not asked["settings"]:
        return []
    cells = [f"{name} {value}" for name, value in asked["settings"].items()]
    return [f"  {', '.join(cells[start : start + 4])}" for start in range(0, len(cells), 4)]


def _etcd(etcd: Model | None) -> list[str]:
    if etcd is None:
        return []
    if not etcd["members"]:
        return ["ETCD  NO ANSWER", *_errors(etcd), *_findings(etcd["findings"])]
    healthy = sum(not member["error"] for member in etcd["members"])
    title = f"ETCD  leader {etcd['leader'] or 'NONE'}, {healthy} of {len(etcd['members'])} answer"
    rows = [
        (
            member["name"],
            _etcd_role(member, etcd["leader"]),
            "NO ANSWER" if member["error"] else "healthy",
            member["version"],
            size(member["db_size"]),
        )
        for member in etcd["members"]
    ]
    return [title, *table(("member", "role", "health", "version", "database"), rows), *_silent(etcd["members"], "name")]


def _etcd_role(member: Model, leader: str) -> str:
    if member["error"]:
        return ""
    return "leader" if member["name"] == leader else "learner" if member["learner"] else "follower"


def _silent(rows: Iterable[Model], key: str) -> list[str]:
    return [f"  ! {row[key]}: {row['error']}" for row in rows if row["error"]]


def _errors(section: Model) -> list[str]:
    return [f"  ! {error}" for error in section["errors"]]


def _findings(findings: Iterable[Model]) -> list[str]:
    return [f"  ! {finding['where']}: {finding['found']}" for finding in findings]


def _routing(routing: Sequence[Model], asked: Model | None) -> list[str]:
    if not routing:
        return []
    header = ["balancer", "read-write", "read-only", "synchronous"]
    rows = [
        [
            line["balancer"],
            *(
                ["NO ANSWER", "", ""]
                if line["error"]
                else [", ".join(names) or "NOBODY" for names in line["routes"].values()]
            ),
        ]
        for line in routing
    ]
    if asked is not None:
        header.append("who answers there")
        rows = [[*row, _behind(asked, row[0])] for row in rows]
    errors = _errors(asked) if asked is not None else []
    return ["ROUTING  HAProxy sends to", *table(header, rows), *_silent(routing, "balancer"), *errors]


def _behind(asked: Model, balancer: str) -> str:
    """Who answered on the read-write port, and on the pools."""
    cells = []
    for line in asked["answers"]:
        if line["balancer"] == balancer and line["port"] in ("read_write", "pools"):
            found = "NO ANSWER" if line["error"] else line["member"] + (" A REPLICA" if line["replica"] else "")
            cells.append(f"{found}{' through the pool' if line['port'] == 'pools' else ''}")
    return ", ".join(cells)


def _pools(pools: Sequence[Model]) -> list[str]:
    if not pools:
        return []
    rows: list[tuple[object, ...]] = []
    for line in pools:
        state = "NO ANSWER" if line["error"] else "no connections" if not line["pools"] else ""
        if state:
            rows.append((line["balancer"], state, "", "", "", ""))
        rows += [
            (
                line["balancer"],
                pool["database"] + (" PAUSED" if pool["database"] in line["paused"] else ""),
                pool["user"],
                f"{pool['clients_active']} ({pool['clients_waiting']} wait)",
                f"{pool['servers_active'] + pool['servers_idle']} ({pool['servers_idle']} idle)",
                f"{pool['longest_wait']:.1f} s",
            )
            for pool in line["pools"]
        ]
    lines = table(("balancer", "database", "user", "clients", "servers", "longest wait"), rows)
    return ["POOLS  PgBouncer", *lines, *_silent(pools, "balancer")]


def _backup(answers: Sequence[Model]) -> list[str]:
    lines: list[str] = []
    for answer in answers:
        lines += [f"BACKUPS  {answer['host']}" + ("  NO ANSWER" if answer["errors"] else "")]
        lines += _errors(answer)
        if answer["summary"]:
            header = ("engine", "good", "last good", "size", "where", "last proved")
            lines += table(header, map(_engine, answer["summary"]))
        if answer["jobs"]:
            lines += table(("job", "last run", "result", "next run"), (_job(job) for job in answer["jobs"]))
        lines += [f"  ! {name}: {one_line(text)}" for name, text in sorted(answer["repositories"].items()) if text]
    return lines


def _engine(summary: Model) -> tuple[object, ...]:
    good, proved = summary["good"], summary["proved"]
    if good is None:
        return summary["engine"], summary["count"], "NONE", "", "", ""
    last_proved = f"{_minute(proved['proved'])} ({proved['label']})" if proved else "NEVER"
    return (
        summary["engine"],
        summary["count"],
        f"{_minute(good['end'])} {good['kind']}",
        size(good["bytes"]),
        good["repository"],
        last_proved,
    )


def _job(job: Model) -> tuple[object, ...]:
    last = job["last"] or {}
    following = datetime.datetime.fromtimestamp(job["next"], datetime.UTC).isoformat() if job["next"] else ""
    state = last.get("state", "")
    result = (
        state if last.get("ok") or state in ("", "running") else f"{state.upper()}: {one_line(last['message'])[:60]}"
    )
    return (
        job["name"],
        _minute(last.get("end") or last.get("start") or "") or "never",
        result,
        (_minute(following) or "unknown") if job["scheduled"] else "NOT SCHEDULED",
    )


def _minute(text: str) -> str:
    """Return a time of the catalogue to the minute, in UTC."""
    return text[:16].replace("T", " ")


def _valkey(valkey: Model | None) -> list[str]:
    if valkey is None:
        return []
    if not valkey["nodes"]:
        return ["VALKEY  NO ANSWER", *_errors(valkey)]
    agree = "" if valkey["agree"] else ", NODES DISAGREE"
    title = (
        f"VALKEY  {valkey['state']}, {valkey['slots_ok']} of 16384 slots, "
        f"{valkey['primaries']} primaries, {valkey['replicas']} replicas, {valkey['keys']} keys{agree}"
    )
    names = {node["id"]: f"{node['host']}:{node['port']}" for node in valkey["nodes"]}
    rows = [_node(node, names) for node in valkey["nodes"]]
    silent = _silent([{**node, "name": names[node["id"]]} for node in valkey["nodes"]], "name")
    lines = table(("node", "role", "slots", "lag", "keys", "memory", "note"), rows)
    return [title, *lines, *silent, *_errors(valkey)]


def _node(node: Model, names: Mapping[str, str]) -> tuple[object, ...]:
    replica = node["role"] == "replica"
    limited = node["max_memory"] and node["used_memory"] is not None
    memory = size(node["used_memory"]) + (f" of {size(node['max_memory'])}" if limited else "")
    notes = [
        "NO ANSWER" if node["error"] else "",
        "LINK DOWN" if replica and node["link_up"] is False else "",
        f"slots {node['open_slots']} on the move" if node["open_slots"] else "",
    ]
    return (
        names[node["id"]],
        f"of {names.get(node['primary'], '?')}" if replica else "primary",
        "" if replica else node["slots"] or "none",
        size(node["lag_bytes"]) if replica else "",
        node["keys"],
        memory,
        ", ".join(filter(None, notes)),
    )
