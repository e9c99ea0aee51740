# SPDX-License-Identifier: Apache-2.0
"""Runs all drivers on the pools and writes what came of it: tests/drivers/results.json, and docs/drivers.md out of it.

    python -m drivers.report [--only NAME ...] [--count 1300] [--page]

--page writes the page out of the results that are there. Each driver does COUNT statements of each kind on each of eight connections,
beside other clients, on the transaction pool and on the session pool.
"""

from __future__ import annotations

import argparse
import datetime
import json
import pathlib
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from drivers.catalogue import CACHE, SESSION, TRANSACTION, Driver, drivers, install
from drivers.run import Run, run
from drivers.tier import DATABASE, Tier

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = pathlib.Path(__file__).with_name("results.json")
PAGE = ROOT / "docs/drivers.md"
SUITE = "trixie"
# What each check is to an application.
CHECKS = {
    "read": "statements with arguments",
    "write": "inserts with arguments",
    "freed": "transaction in which a statement is freed",
    "stream": "many rows in parts",
    "iterators": "many rows in parts, side by side",
    "copy": "COPY",
    "listen": "LISTEN",
    "cancel": "cancel",
    "altered": "after ALTER TABLE, standing connections",
    "altered_new": "after ALTER TABLE, new connections",
}
# Kinds of wishes that a transaction pool cannot fulfil for anybody, told once on the page.
GENERAL = ("listen", "altered", "altered_new")
INTRODUCTION = """# Drivers

What PostgreSQL's drivers do on the pools, each in its defaults. Written by `make drivers`, which runs each driver of the table:
{count} statements of each kind or more on each of eight connections beside other clients, PgBouncer of Debian 13 in its default mode
(`pgbouncer_isolation: checked`) where nothing else is said, {day}. A driver that is not in the table has not been run by it.

**Which pool?** A row that says *transaction* is right on `NAME`.
One that says *session* needs `NAME_session`, or the setting in its last column on `NAME`.
No row has wrong data: where a driver does what a transaction pool cannot carry, it gets an error.

What no driver can have on a transaction pool, and `NAME_session` gives: `LISTEN` (accepted, and silent), session advisory locks,
`SET` (kept by whoever gets the connection next; `pgbouncer_isolation: clean` takes it back), `WITH HOLD` cursors, temporary tables.
After an `ALTER TABLE` that changes what `SELECT *` gives, drivers that prepare get `cached plan must not change result type`
until the pools' connections are renewed: [`renew_pools.yml`](renew_pools.md).

"""
POOLS = """## On the pools

| driver | pool | on `NAME` (transaction) | on `NAME_session` | setting for `NAME` |
|---|---|---|---|---|
"""
ALTERED = """
## After ALTER TABLE, without renewing

| driver | on `NAME` | on `NAME_session` |
|---|---|---|
"""
CERTIFICATES = """
## Certificates

What each driver takes for TLS with a client certificate, password and user as usual.

| driver | words |
|---|---|
"""


def summary(run_: dict[str, Any], general: bool = False) -> str:
    """Say in a cell what came of a run."""
    told = []
    for check, result in run_["checks"].items():
        if check not in CHECKS or (check in GENERAL) != general:
            continue
        if result["wrong"] and not (general and check == "listen"):
            told.append(f"**{result['wrong']} of {sum_of(result)} wrong: {CHECKS[check]}**")
        if result["errors"]:
            told.append(f"{CHECKS[check]}: {result['errors']} of {sum_of(result)} errors, `{short(result['error'])}`")
    return ("; ".join(told) or "all right") + (f" (in the mode `{run_['mode']}`)" if "mode" in run_ else "")


def sum_of(result: dict[str, Any]) -> int:
    """Return how often something was done."""
    return int(result["right"] + result["wrong"] + result["errors"])


def short(error: str) -> str:
    """Return an error's text for a cell."""
    text = " ".join(error.replace("|", "/").replace("`", "'").split())
    return text if len(text) <= 90 else text[:87] + "..."


def page(results: dict[str, Any]) -> str:
    """Return docs/drivers.md."""
    text = INTRODUCTION.format(
        count=f"{min(entry['count'] for entry in results['drivers'].values()):,}", day=results["day"]
    )
    text += POOLS
    for name, entry in results["drivers"].items():
        label = name if entry["version"] == name else f"{name} ({entry['version']})"
        text += f"| {label} | {entry['pool']} | {summary(entry[TRANSACTION])} | {summary(entry[SESSION])} | {entry['remedy'] or ''} |\n"
    text += ALTERED
    for name, entry in results["drivers"].items():
        if "altered" in entry[TRANSACTION]["checks"]:
            text += f"| {name} | {after_alter(entry[TRANSACTION])} | {after_alter(entry[SESSION])} |\n"
    text += CERTIFICATES
    for name, entry in results["drivers"].items():
        text += f"| {name} | `{entry['options']}` |\n"
    return text


def after_alter(run_: dict[str, Any]) -> str:
    """Say how many reads failed after a column was added."""
    found = [run_["checks"][check] for check in ("altered", "altered_new")]
    return ", ".join(
        f"{words} {result['errors']} of {sum_of(result)} errors"
        for words, result in zip(("standing connections", "new ones"), found, strict=True)
    )


def problems(results: dict[str, Any]) -> list[str]:
    """Return what no run may have: wrong rows on any pool, errors on the pool that the page gives the driver."""
    found = []
    for name, entry in results["drivers"].items():
        for pool in (TRANSACTION, SESSION):
            for check, result in entry[pool]["checks"].items():
                if result["wrong"] and not (pool == TRANSACTION and check == "listen"):
                    found.append(f"{name}: {check} on the {pool} pool: {result['wrong']} wrong")
                if result["errors"] and pool == entry["pool"] and check not in GENERAL:
                    found.append(f"{name}: {check} on the {pool} pool: {result['errors']} errors, {result['error']}")
    return found


def measured(tier: Tier, port: int, driver: Driver, count: int) -> dict[str, Any]:
    """Run one driver on both pools."""
    entry: dict[str, Any] = {"pool": driver.pool, "options": driver.options, "remedy": driver.remedy, "version": ""}
    for pool, database in ((TRANSACTION, DATABASE), (SESSION, f"{DATABASE}_session")):
        found: Run = run(tier, driver.command, port, database=database, count=count, variables=driver.variables)
        entry["version"] = found.version
        entry[pool] = {"checks": {check: asdict(result) for check, result in found.checks.items()}}
        print(f"{driver.name} on the {pool} pool: {summary(entry[pool])}", flush=True)
    return entry


def main() -> int:
    """Run; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--count", type=int, default=1300)
    parser.add_argument("--page", action="store_true")
    options = parser.parse_args()
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"drivers": {}}
    if not options.page:
        install()
        with Tier() as tier:
            bouncer = tier.bouncer(SUITE, {})
            key = CACHE / "key.pk8"
            subprocess.run(
                ["openssl", "pkcs8", "-topk8", "-nocrypt", "-outform", "DER", "-in", tier.authority.pem, "-out", key],
                check=True,
            )
            for driver in drivers(key):
                if not options.only or any(word in driver.name for word in options.only):
                    results["drivers"][driver.name] = measured(tier, bouncer.port, driver, options.count)
                    results["drivers"][driver.name]["count"] = options.count
                    results.update(day=str(datetime.datetime.now(datetime.UTC).date()))
                    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    PAGE.write_text(page(results))
    for problem in problems(results):
        print(problem, file=sys.stderr)
    return 1 if problems(results) else 0


if __name__ == "__main__":
    sys.exit(main())
