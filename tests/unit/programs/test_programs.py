# SPDX-License-Identifier: Apache-2.0
"""The collection's own programs: each is declared once, has all it imports and nothing else, and starts from its folder alone."""

from __future__ import annotations

import ast
import configparser
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.programs import layout
from ansible_collections.holdfast.persistence.plugins.plugin_utils.programs import collection

ROOT = Path(__file__).resolve().parents[3]
SOURCES = {path.stem.replace("_", "-"): path for path in sorted(ROOT.glob("roles/*/files/*.py"))}
# By what a program imports: the packages of which one brings it. Patroni itself needs yaml.
PACKAGES = {
    "yaml": {"python3-yaml", "patroni"},
    "psycopg2": {"python3-psycopg2"},
    "valkey": {"python3-redis", "python3-valkey"},
    "redis": {"python3-redis"},
}
# The inventory's group for which the packages of a role are installed.
TIERS = {"patroni": "postgresql", "pgbackrest": "postgresql", "pgbouncer": "balancer"}
# Modules of 3.11 that 3.12 to 3.14 lack (PEP 594, PEP 632, and asynchat, asyncore, imp and smtpd of 3.12).
GONE = frozenset(
    [
        "aifc",
        "asynchat",
        "asyncore",
        "audioop",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "distutils",
        "imghdr",
        "imp",
        "lib2to3",
        "mailcap",
        "msilib",
        "nis",
        "nntplib",
        "ossaudiodev",
        "pipes",
        "smtpd",
        "sndhdr",
        "spwd",
        "sunau",
        "telnetlib",
        "uu",
        "xdrlib",
    ]
)
STARTED = "import sys\nsys.path[:0] = [{folder!r}, {stubs!r}]\nimport {module}\nassert callable({module}.main)\n"
LOADED = """
own = sorted(name for name in sys.modules if name.startswith("ansible"))
assert all(name.startswith("ansible_collections") for name in own), own
print(*(sys.modules[name].__file__ or "" for name in own if hasattr(sys.modules[name], "__file__")), sep="\\n")
"""


def declared() -> dict[str, tuple[str, dict[str, Any]]]:
    """Every program that a role declares, with the role."""
    found = {}
    for path in sorted(ROOT.glob("roles/*/vars/main.yml")):
        role = path.parts[-3]
        for program in yaml.safe_load(path.read_text()).get(f"__{role}_own_programs", []):
            assert program["name"] not in found
            found[program["name"]] = (role, program)
    return found


def write(name: str, folder: Path) -> Path:
    """Write a program as on a host."""
    for relative, text in collection.folder_of(name).items():
        path = folder / name / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / name


def python(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Python as units do, and without any installed package."""
    return subprocess.run(
        [sys.executable, "-I", "-S", "-B", *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_every_program_is_declared_by_the_role_that_has_it() -> None:
    assert {name: role for name, (role, _program) in declared().items()} == {
        name: path.parts[-3] for name, path in SOURCES.items()
    }


@pytest.mark.parametrize("name", SOURCES)
def test_a_program_starts_from_its_folder_alone(name: str, tmp_path: Path) -> None:
    folder = write(name, tmp_path)
    told = python(folder, "--version")
    assert told.stdout == f"{name} {collection.version()} {layout.digest_of(collection.folder_of(name))[:12]}\n", (
        told.stderr
    )
    stubs = tmp_path / "stubs"
    for package in PACKAGES:
        (stubs / package).mkdir(parents=True)
        (stubs / package / "__init__.py").touch()
    (stubs / "psycopg2" / "extras.py").touch()
    code = STARTED.format(folder=str(folder), stubs=str(stubs), module=layout.module_of(name)) + LOADED
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert all(line.startswith(f"{folder}/") for line in done.stdout.split())


@pytest.mark.parametrize("name", SOURCES)
def test_what_a_program_imports_is_on_its_hosts(name: str) -> None:
    outside = collection.closure(name).outside
    assert not outside & GONE
    packages = outside - sys.stdlib_module_names
    assert packages <= set(PACKAGES)
    role = SOURCES[name].parts[-3]
    platforms = yaml.safe_load((ROOT / "roles/cluster/vars/main/platforms.yml").read_text())["cluster_platforms"]
    for platform in platforms.values():
        there = set(platform["packages"][TIERS.get(role, role)])
        assert [package for package in packages if not PACKAGES[package] & there] == []


@pytest.mark.parametrize("name", SOURCES)
def test_its_code_is_of_the_oldest_python_and_loaded_before_it_starts(name: str) -> None:
    for relative, text in collection.folder_of(name).items():
        if relative.endswith(".py"):
            tree = ast.parse(text, relative, feature_version=(3, 11))
            # A running program whose folder is replaced never loads code of the next one.
            late = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
            inner = [each for node in late for each in ast.walk(node) if isinstance(each, (ast.Import, ast.ImportFrom))]
            assert [ast.unparse(each) for each in inner if "holdfast" in ast.unparse(each)] == []


@pytest.mark.parametrize("name", [name for name in SOURCES if collection.units_of(name)])
def test_units_have_one_shape(name: str) -> None:
    role, program = declared()[name]
    units = collection.units_of(name)
    assert f"{name}.service" in units
    for unit, text in units.items():
        licence, shape = text.split("\n", 1)
        assert licence.startswith("# SPDX-License-Identifier: "), unit
        assert shape.startswith(f"# Written by Ansible (holdfast.persistence.{role}).\n[Unit]\nDescription="), unit
    parsed = configparser.ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string(units[f"{name}.service"])
    assert parsed["Service"]["ExecStart"] == " ".join(layout.start_of(name))
    assert parsed["Service"].get("User", "root") == program.get("user", "root")
    # What starts it at boot, and nothing else.
    assert [unit for unit, text in units.items() if "[Install]" in text] == [next(iter(units))]


@pytest.mark.parametrize("name", [name for name, (_role, program) in declared().items() if "settings" in program])
def test_a_program_reads_the_settings_that_are_written(name: str) -> None:
    _role, program = declared()[name]
    path = program.get("settings_file", f"/etc/holdfast/{name}.json")
    texts = [SOURCES[name].read_text(), *collection.closure(name).files.values()]
    assert any(f'"{path}"' in text for text in texts)


def test_no_list_of_imports_is_kept_by_hand() -> None:
    files = [path for folder in ("roles", "playbooks") for path in (ROOT / folder).rglob("*.y*ml")]
    assert [path for path in files if re.search(r"module_utils|ansible_collections", path.read_text())] == []


def test_a_command_becomes_the_program() -> None:
    text = layout.command_text("holdfast-backup")
    words = ["/usr/bin/python3", "-I", "/usr/local/lib/holdfast/programs/holdfast-backup"]
    assert text.startswith("#!/usr/bin/python3 -I\n")
    assert ast.unparse(ast.parse(text).body[-1]) == f"os.execv('/usr/bin/python3', [*{words!r}, *sys.argv[1:]])"


def test_an_installed_collection_tells_its_version_by_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collection, "read", {"MANIFEST.json": '{"collection_info": {"version": "7.8.9"}}'}.get)
    assert collection.version.__wrapped__() == "7.8.9"
