# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""One list of the backups of all engines and repositories, read from the stores themselves. No I/O."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import retention
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.manifest import Manifest, iso, seconds
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.proofs import Proof
from ansible_collections.holdfast.persistence.plugins.module_utils.findings import Finding
from ansible_collections.holdfast.persistence.plugins.module_utils.pgbackrest.repository import Stanza, format_lsn

POSTGRESQL = "postgresql"


@dataclass(frozen=True)
class Entry:
    """One backup in one place.

    series: what it is a backup of, beyond its engine: its kind, for a dump also the database. repository: name of the place;
    location: where in it. start and end in seconds since 1970. good: whole and usable; problem says why not. proved and drill:
    when a drill restored it and which; failed: when a drill could not. needs: labels it can't be restored without.
    """

    engine: str
    kind: str
    label: str
    repository: str
    location: str
    start: float
    end: float
    bytes: int
    cluster: str = ""
    series: str = ""
    set: str = ""
    position: Mapping[str, Any] = field(default_factory=dict)
    expiry: float | None = None
    sha256: str = ""
    good: bool = True
    problem: str = ""
    proved: float | None = None
    failed: float | None = None
    drill: str = ""
    rto_seconds: float | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """How old an engine's last good and last proved backup may be, in seconds; 0 where nothing is demanded."""

    good: float = 0.0
    proved: float = 0.0


def from_stanza(
    stanza: Stanza, names: Mapping[int, str], paths: Mapping[int, str], days: Mapping[int, int] | None = None
) -> list[Entry]:
    """Return the entries of pgBackRest's backups.

    Parameters: names and paths of the repositories by number; days that a repository keeps full backups where age is its rule.
    """
    ends = {(item.repository, item.label): item.stop for item in stanza.backups}
    result = []
    for item in stanza.backups:
        keeps = (days or {}).get(item.repository)
        # An incremental backup goes with the full one it rests on.
        first = ends.get((item.repository, item.label.split("_")[0]), item.stop)
        name = names.get(item.repository, f"repo{item.repository}")
        result.append(
            Entry(
                engine=POSTGRESQL,
                kind=item.kind,
                label=item.label,
                repository=name,
                location=f"{paths.get(item.repository, '')}/backup/{stanza.name}/{item.label}",
                start=float(item.start),
                end=float(item.stop),
                bytes=item.stored,
                cluster=stanza.name,
                set=item.annotations.get("set", ""),
                position={
                    "lsn": format_lsn(item.stop_lsn),
                    "timeline": item.stop_timeline,
                    "system_identifier": str(item.system_identifier),
                },
                expiry=first + keeps * 86_400.0 if keeps else None,
                good=not item.faulty,
                problem="pgBackRest found errors in it (checksums of pages)" if item.faulty else "",
                needs=(item.prior,) if item.prior else (),
            )
        )
    return result


def from_manifest(
    manifest: Manifest, repository: str, location: str, *, sha256: str, problems: Sequence[str] = (), days: int = 0
) -> Entry:
    """Return the entry of a backup that is a folder of files.

    Parameters: sha256 of the manifest, which holds that of every file; problems found with the files; days it is kept where
    age is the only rule.
    """
    end = seconds(manifest.end)
    return Entry(
        engine=manifest.engine,
        kind=manifest.kind,
        label=manifest.label,
        repository=repository,
        location=location,
        start=seconds(manifest.start),
        end=end,
        bytes=manifest.bytes,
        cluster=manifest.cluster,
        series=series_of(manifest),
        set=manifest.set,
        position=manifest.position,
        expiry=end + days * 86_400.0 if days else None,
        sha256=sha256,
        good=not problems,
        problem="; ".join(problems),
    )


def series_of(manifest: Manifest) -> str:
    """Return what a backup supersedes older ones of: those of the same engine, kind and, for a dump, database, for an archive name."""
    database, archive = manifest.extras.get("database"), manifest.extras.get("archive")
    named = [database, archive.get("name") if isinstance(archive, dict) else None]
    return "/".join([manifest.engine, manifest.kind, *(text for text in named if isinstance(text, str) and text)])


def broken(engine: str, label: str, repository: str, location: str, *, moment: float, problem: str) -> Entry:
    """Return the entry of a folder whose manifest is missing or can't be read. moment: of its label, in seconds since 1970."""
    return Entry(engine, "unknown", label, repository, location, moment, moment, 0, good=False, problem=problem)


def with_proofs(entries: Iterable[Entry], found: Iterable[Proof]) -> list[Entry]:
    """Return the entries with what drills said of them, the newest first. A copy of a set elsewhere has its own proof."""
    ordered = sorted(found, key=lambda proof: seconds(proof.proved))
    result = [_with_newest(entry, [proof for proof in ordered if _is_of(proof, entry)]) for entry in entries]
    return sorted(result, key=lambda entry: (-entry.end, entry.engine, entry.label, entry.repository))


def _is_of(proof: Proof, entry: Entry) -> bool:
    same = (proof.engine, proof.label) == (entry.engine, entry.label)
    return same and proof.repository in ("", entry.repository)


def _with_newest(entry: Entry, ordered: Sequence[Proof]) -> Entry:
    """Return the entry with what the last of its proofs says."""
    if not ordered:
        return entry
    proof = ordered[-1]
    moment = seconds(proof.proved)
    return replace(
        entry,
        drill=proof.drill,
        proved=moment if proof.ok else None,
        failed=None if proof.ok else moment,
        rto_seconds=proof.rto_seconds,
    )


def items(entries: Iterable[Entry]) -> list[retention.Item]:
    """Return entries of files as retention sees them."""
    return [
        retention.Item(
            label=entry.label,
            series=entry.series or f"{entry.engine}/{entry.kind}",
            end=entry.end,
            good=entry.good,
            proved=entry.proved is not None,
            needs=entry.needs,
        )
        for entry in entries
    ]


def last_good(entries: Iterable[Entry], engine: str) -> Entry | None:
    """Return the newest good backup of an engine."""
    return max(
        (item for item in entries if item.engine == engine and item.good), key=lambda item: item.end, default=None
    )


def last_proved(entries: Iterable[Entry], engine: str) -> Entry | None:
    """Return the newest backup of an engine that a drill proved."""
    proved = [item for item in entries if item.engine == engine and item.good and item.proved is not None]
    return max(proved, key=lambda item: item.end, default=None)


def judge(entries: Sequence[Entry], limits: Mapping[str, Limits], now: float) -> list[Finding]:
    """Return what is not as it should be, for each engine that limits names."""
    return [finding for engine in sorted(limits) for finding in _judge_engine(entries, engine, limits[engine], now)]


def _judge_engine(entries: Sequence[Entry], engine: str, limit: Limits, now: float) -> list[Finding]:
    findings = []
    good, proved = last_good(entries, engine), last_proved(entries, engine)
    if limit.good and (good is None or now - good.end > limit.good):
        findings.append(
            Finding(
                "backup_overdue",
                "critical",
                engine,
                f"the last good backup is {age(now - good.end)} old ({good.label})" if good else "no good backup",
                f"one in the last {age(limit.good)}",
                "Find out with status.yml why its job did not run or failed, then run backup.yml.",
            )
        )
    if limit.proved and (proved is None or proved.proved is None or now - proved.proved > limit.proved):
        findings.append(
            Finding(
                "backup_unproved",
                "critical",
                engine,
                f"the last proof is {age(now - (proved.proved or 0))} old ({proved.label})"
                if proved
                else "no backup was ever proved by a restore",
                f"a proof in the last {age(limit.proved)}",
                "Run restore_drill.yml and read its verdict.",
            )
        )
    for item in entries:
        if item.engine == engine and item.failed is not None and item.end >= (proved.end if proved else 0):
            findings.append(
                Finding(
                    "backup_drill_failed",
                    "critical",
                    engine,
                    f"a drill could not restore {item.label} from {item.repository}",
                    "every drill proves its backup",
                    "Read the drill's verdict, make a new backup, and prove that one.",
                )
            )
            break
    bad = [item for item in entries if item.engine == engine and not item.good]
    if bad:
        findings.append(
            Finding(
                "backup_broken",
                "warning",
                engine,
                f"{len(bad)} of its backups are not good; {bad[0].label} in {bad[0].repository}: {bad[0].problem}",
                "none",
                "Keep it until a newer one is good; retention removes it then.",
            )
        )
    return findings


def age(span: float) -> str:
    """Return a span of time for people: 40 s, 12 min, 30 h, 9 days."""
    for unit, name, below in ((1, "s", 120), (60, "min", 7_200), (3_600, "h", 172_800)):
        if span < below:
            return f"{span / unit:.0f} {name}"
    return f"{span / 86_400:.0f} days"


def to_dict(entry: Entry) -> dict[str, Any]:
    """Return an entry as plain data; times as ISO 8601, None where there is none."""
    content = asdict(entry)
    for name in ("start", "end", "expiry", "proved", "failed"):
        moment = content[name]
        content[name] = None if moment is None else iso(datetime.datetime.fromtimestamp(moment, datetime.UTC))
    return {**content, "needs": list(entry.needs), "position": dict(entry.position)}


def metrics(
    entries: Sequence[Entry],
    engines: Iterable[str],
    now: float,
    repositories: Mapping[str, bool],
    jobs: Sequence[Mapping],
) -> str:
    """Return what Prometheus reads, in its text format.

    Ages are seconds; of an engine that has no such backup there is no sample, which the rules take for too old.
    Parameters: repositories, by name whether they answer; jobs, their last results (name, ok, end in seconds since 1970).
    """
    names = list(engines)
    lines = _family("holdfast_backup_last_good_age_seconds", "Age of the newest good backup.")
    lines += [
        _sample("holdfast_backup_last_good_age_seconds", {"engine": name}, now - found.end)
        for name in names
        if (found := last_good(entries, name))
    ]
    lines += _family("holdfast_backup_last_proved_age_seconds", "Time since a drill last proved a backup.")
    lines += [
        _sample("holdfast_backup_last_proved_age_seconds", {"engine": name}, now - found.proved)
        for name in names
        if (found := last_proved(entries, name)) and found.proved is not None
    ]
    lines += _family("holdfast_backup_good_count", "Good backups in all repositories.")
    lines += [
        _sample(
            "holdfast_backup_good_count", {"engine": name}, sum(item.good for item in entries if item.engine == name)
        )
        for name in names
    ]
    lines += _family("holdfast_backup_last_good_bytes", "Size of the newest good backup.")
    lines += [
        _sample("holdfast_backup_last_good_bytes", {"engine": name}, found.bytes)
        for name in names
        if (found := last_good(entries, name))
    ]
    lines += _family("holdfast_backup_drill_failed", "Whether the last drill over an engine's backups failed.")
    lines += [
        _sample("holdfast_backup_drill_failed", {"engine": name}, int(_last_drill_failed(entries, name)))
        for name in names
    ]
    lines += _family("holdfast_backup_repository_up", "Whether a repository answers.")
    lines += [
        _sample("holdfast_backup_repository_up", {"repository": name}, int(up))
        for name, up in sorted(repositories.items())
    ]
    lines += _family("holdfast_backup_job_ok", "Whether a job's last run succeeded.")
    lines += [_sample("holdfast_backup_job_ok", {"job": job["name"]}, int(job["ok"])) for job in jobs]
    lines += _family("holdfast_backup_job_age_seconds", "Time since a job's last run ended.")
    lines += [_sample("holdfast_backup_job_age_seconds", {"job": job["name"]}, now - job["end"]) for job in jobs]
    return "\n".join(lines) + "\n"


def _last_drill_failed(entries: Iterable[Entry], engine: str) -> bool:
    drilled = [
        (moment, entry)
        for entry in entries
        if entry.engine == engine and (moment := max(entry.proved or 0, entry.failed or 0))
    ]
    return bool(drilled) and max(drilled, key=lambda pair: pair[0])[1].failed is not None


def _family(name: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} gauge"]


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value:.0f}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
