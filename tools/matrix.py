# SPDX-License-Identifier: Apache-2.0
"""Prove the collection under every release of ansible-core that it supports, and print a table.

Each release gets a virtual environment in .cache/matrix, with the newest patch release and the pins of requirements-dev.txt;
an environment whose requirements have not changed is used again. The parts need no server and no lab.
The log of each part stands beside its environment; the end of one that failed is printed.
The exit status is 0 if every part succeeded. --only and --parts narrow what is run.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache/matrix"
END_LINES = 40


@dataclass(frozen=True)
class Environment:
    """A release of ansible-core, the Python it is tried with, the release of the package ansible that belongs to it, and its settings."""

    core: str
    python: str
    package: str
    settings: dict[str, str] = field(default_factory=dict)


ENVIRONMENTS = (
    # What plugins/plugin_utils/templates.py asks for.
    Environment("2.18", "3.11", "11", {"ANSIBLE_JINJA2_NATIVE": "true"}),
    Environment("2.19", "3.11", "12"),
    Environment("2.20", "3.13", "13"),
    Environment("2.21", "3.13", "14"),
)
PARTS = {
    "unit": ("python", "-m", "pytest", "tests/unit"),
    "packaging": ("python", "-m", "pytest", "tests/packaging"),
    # Those of the module tests that start no server.
    "module": ("python", "-m", "pytest", "tests/module/patroni", "tests/module/pgbackrest"),
    "sanity": ("tools/sanity",),
}
# What brings an ansible-core of its own, or judges only the style.
LEFT_OUT = {"ansible", "ansible-core", "ansible-lint", "molecule", "molecule-plugins", "mypy", "ruff", "yamllint"}
# The dependency of galaxy.yml, and the callback that tests read. The rest of the package is a hundred collections, and minutes.
COLLECTIONS = ("ansible_collections/community/postgresql/", "ansible_collections/ansible/posix/")


@dataclass(frozen=True)
class Outcome:
    """What became of a part: its exit status and its duration in seconds."""

    status: int
    seconds: float

    def __str__(self) -> str:
        return f"{'ok' if self.status == 0 else 'FAILED'} {self.seconds:.0f} s"


def requirements(environment: Environment) -> list[str]:
    """Return what pip installs into an environment."""
    pins = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    kept = [pin for pin in pins if pin and not pin.startswith("#") and re.split(r"[\[=]", pin)[0] not in LEFT_OUT]
    return [f"ansible-core=={environment.core}.*", *kept]


def interpreter(version: str) -> str:
    """Return a Python of a version: of PATH, or of pyenv. Raises SystemExit where this machine has none."""
    for candidate in candidates(version):
        # pyenv puts a program of that name into PATH that only says that the version isn't chosen.
        if (
            subprocess.run([candidate, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode
            == 0
        ):
            return candidate
    raise SystemExit(
        f"error: no python{version} with venv: install python{version} and python{version}-venv, or the version by pyenv"
    )


def candidates(version: str) -> Iterator[str]:
    """Yield where a Python of a version may be."""
    found = shutil.which(f"python{version}")
    if found:
        yield found
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from map(str, sorted(root.glob(f"versions/{version}.*/bin/python{version}"), reverse=True))


def provide(environment: Environment) -> Path:
    """Return the folder of an environment's programs; the environment is made where it is missing or of other requirements."""
    folder = CACHE / environment.core
    wanted = requirements(environment)
    python = interpreter(environment.python)
    state = hashlib.sha256("\n".join([python, *COLLECTIONS, *wanted]).encode()).hexdigest()
    mark = folder / "requirements.sha256"
    if not mark.exists() or mark.read_text() != state:
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        pip = [folder / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--no-compile", *wanted], check=True)
        wheels = folder / "wheels"
        subprocess.run(
            [*pip, "download", "--no-deps", "--dest", wheels, f"ansible=={environment.package}.*"], check=True
        )
        unpack(wheels, folder, environment.python)
        mark.write_text(state)
    return folder / "bin"


def unpack(wheels: Path, folder: Path, python: str) -> None:
    """Put the collections that are needed where ansible-core finds them, and delete the package that brought them."""
    packages = sysconfig.get_path("purelib", vars={"base": str(folder), "py_version_short": python})
    (wheel,) = wheels.glob("ansible-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages, [name for name in archive.namelist() if name.startswith(COLLECTIONS)])
    shutil.rmtree(wheels)


def run(environment: Environment, programs: Path, part: str) -> Outcome:
    """Run one part, everything it says into its log."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    settings = {
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "PATH": f"{programs}:{os.environ['PATH']}",
        **environment.settings,
    }
    log = CACHE / f"{environment.core}-{part}.log"
    begun = time.monotonic()
    with log.open("wb") as stream:
        done = subprocess.run(
            PARTS[part], cwd=ROOT, env={**inherited, **settings}, stdout=stream, stderr=subprocess.STDOUT, check=False
        )
    outcome = Outcome(done.returncode, time.monotonic() - begun)
    print(f"ansible-core {environment.core}, {part}: {outcome}", flush=True)
    if done.returncode != 0:
        print("\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-END_LINES:]), flush=True)
    return outcome


def table(outcomes: dict[tuple[str, str], Outcome], environments: list[Environment], parts: list[str]) -> str:
    """Return the outcomes as a table of Markdown, one line a release."""
    lines = [f"| ansible-core | Python | {' | '.join(parts)} |", "|" + "---|" * (2 + len(parts))]
    for environment in environments:
        cells = [str(outcomes[environment.core, part]) for part in parts]
        lines.append(f"| {environment.core} | {environment.python} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [environment.core for environment in ENVIRONMENTS]
    parser.add_argument("--only", nargs="+", choices=known, default=known, help="releases of ansible-core")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what is run")
    return parser.parse_args()


def main() -> int:
    """Run what was asked for and return the exit status."""
    arguments = parse()
    CACHE.mkdir(parents=True, exist_ok=True)
    environments = [environment for environment in ENVIRONMENTS if environment.core in arguments.only]
    outcomes = {}
    for environment in environments:
        programs = provide(environment)
        for part in arguments.parts:
            outcomes[environment.core, part] = run(environment, programs, part)
    print(f"\n{table(outcomes, environments, arguments.parts)}")
    return 1 if any(outcome.status for outcome in outcomes.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
