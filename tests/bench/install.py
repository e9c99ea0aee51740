# SPDX-License-Identifier: Apache-2.0
"""How long an installation from bare hosts takes, and a second run that changes nothing.

    tests/bench/install.py [--runs 1]

Makes hosts of its own (lab `bench`), runs site.yml twice, takes them down again. Prints a table as Markdown.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

from machine import here

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1800.0
# Of autobase on hosts of the same kind: its first deployment, and its playbook for settings without a change (a second
# deployment fails there).
AUTOBASE = {"site.yml, first run": 780, "site.yml, second run": 235}


def make(*words: str) -> str:
    """Run make for the benchmark's own lab and return what it wrote."""
    environment = {**os.environ, "HOLDFAST_LAB": "bench", "HOLDFAST_LAB_DIR": str(ROOT / ".lab-bench")}
    done = subprocess.run(
        ["make", "--no-print-directory", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    if done.returncode:
        sys.exit(f"make {' '.join(words)} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def seconds_of(*words: str) -> tuple[float, str]:
    """Return how long a make target took, and what it wrote."""
    begin = time.monotonic()
    text = make(*words)
    return time.monotonic() - begin, text


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1)
    options = parser.parse_args()
    found: dict[str, list[float]] = {"bare hosts": [], "site.yml, first run": [], "site.yml, second run": []}
    for _run in range(options.runs):
        make("lab-down")
        try:
            found["bare hosts"].append(seconds_of("lab-hosts")[0])
            found["site.yml, first run"].append(seconds_of("site")[0])
            again, text = seconds_of("site")
            found["site.yml, second run"].append(again)
            changed = sum(int(number) for number in re.findall(r"changed=(\d+)", text))
            if changed:
                sys.exit(f"the second run changed {changed} things")
        finally:
            make("lab-down")
    print(f"Three converged hosts, medians of {options.runs}. {here('ansible-core ' + version('ansible-core'))}.\n")
    print("| step | seconds | autobase | ratio |\n|---|---|---|---|")
    for name, times in found.items():
        median, peer = statistics.median(times), AUTOBASE.get(name)
        beside = f"{peer} | {peer / median:.1f}" if peer else "| "
        print(f"| {name} | {median:.0f} | {beside} |")


if __name__ == "__main__":
    main()
