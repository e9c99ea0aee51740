# SPDX-License-Identifier: Apache-2.0
"""The collection as its users get it: built into a tarball, installed, run by name from any folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAMESPACE, NAME = "holdfast", "persistence"

# Parts of a checkout that the installed collection does not carry.
DEVELOPMENT = (
    "Makefile",
    "ansible.cfg",
    "findings/",
    "inventories/lab/",
    "molecule/",
    "pyproject.toml",
    "requirements-dev.txt",
    "tests/",
    "tools/",
    "galaxy.yml",
)
# What a used checkout holds beside the tracked files. None of it may reach a tarball.
JUNK = (
    ".lab/connection.env",
    ".venv/bin/python",
    ".pytest_cache/v/cache/nodeids",
    "inventories/converged/.secrets/etcd_root",
    "inventories/converged/.secrets/tls/ca.key",
    "plugins/modules/__pycache__/module.cpython-311.pyc",
    "holdfast-persistence-0.0.9.tar.gz",
)


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """Run a program of the virtual environment and return its standard output; fail with all it said."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=cwd,
        env={**inherited, "ANSIBLE_NOCOLOR": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def tracked_files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for path in listing.stdout.splitlines() if (ROOT / path).is_file()]


def modules() -> set[str]:
    return {path.stem for path in (ROOT / "plugins/modules").glob("*.py")}


@pytest.fixture(scope="module")
def tarball(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built collection, from a copy of the checkout in which a used checkout's junk lies about."""
    checkout = tmp_path_factory.mktemp("checkout")
    for path in tracked_files():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, checkout / path)
    for path in JUNK:
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text("junk\n")
    target = tmp_path_factory.mktemp("tarball")
    run("ansible-galaxy", "collection", "build", "--output-path", target, cwd=checkout)
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(tarball: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of collections into which the tarball is installed; its dependencies must be at hand already."""
    path = tmp_path_factory.mktemp("collections")
    run("ansible-galaxy", "collection", "install", tarball, "--offline", "--collections-path", path, cwd=path)
    return path


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder that has nothing to do with the checkout, with an inventory of three machines."""
    groups = {
        group: {"hosts": {"a1": None, "a2": None, "a3": None}} for group in ("etcd", "postgresql", "balancer", "valkey")
    }
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": groups}}))
    return tmp_path


def test_tarball_holds_the_users_files_and_nothing_else(tarball: Path) -> None:
    expected = {
        path
        for path in tracked_files()
        if not path.startswith(DEVELOPMENT) and not any(part.startswith(".") for part in path.split("/"))
    }
    with tarfile.open(tarball) as archive:
        members = archive.getmembers()
    files = {member.name for member in members if not member.isdir()}
    assert files - {"MANIFEST.json", "FILES.json"} == expected
    folders = {str(parent) for path in expected for parent in Path(path).parents} - {"."}
    assert {member.name for member in members if member.isdir()} == folders


def test_manifest_names_version_licence_and_bounded_dependencies(tarball: Path) -> None:
    with tarfile.open(tarball) as archive:
        stream = archive.extractfile("MANIFEST.json")
        assert stream is not None
        information = json.load(stream)["collection_info"]
    assert (information["namespace"], information["name"]) == (NAMESPACE, NAME)
    assert information["license_file"] == "LICENSE"
    for name, bound in information["dependencies"].items():
        assert re.fullmatch(r">=\d+\.\d+\.\d+", bound), f"{name}: {bound} is not a plain lower bound"


def test_changelog_has_the_version_of_the_manifest() -> None:
    version = yaml.safe_load((ROOT / "galaxy.yml").read_text())["version"]
    assert version in yaml.safe_load((ROOT / "changelogs/changelog.yaml").read_text())["releases"]
    assert f'<a id="v{version.replace(".", "-")}"></a>' in (ROOT / "CHANGELOG.md").read_text()


def released() -> dict[str, str]:
    """The release that the changelog names for each plugin and role, by `kind/name`."""
    found = {}
    for version, release in yaml.safe_load((ROOT / "changelogs/changelog.yaml").read_text())["releases"].items():
        plugins = {"modules": release.get("modules", []), **release.get("plugins", {})}
        plugins["roles"] = release.get("objects", {}).get("role", [])
        found |= {f"{kind}/{plugin['name']}": version for kind, listed in plugins.items() for plugin in listed}
    return found


def said_versions() -> dict[str, str]:
    """The `version_added` of each plugin and role, by `kind/name`."""
    found = {}
    for kind in ("modules", "filter", "lookup"):
        for path in (ROOT / "plugins" / kind).glob("*.py"):
            said = re.search(r"^version_added: *(\S+)$", path.read_text(), re.MULTILINE)
            found[f"{kind}/{path.stem}"] = said[1] if said else ""
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        specification = yaml.safe_load(path.read_text())["argument_specs"]["main"]
        found[f"roles/{path.parts[-3]}"] = str(specification.get("version_added", ""))
    return found


def test_version_added_is_the_release_that_brought_a_plugin_or_the_next() -> None:
    versions = released()
    major, minor, _patch = max(map(ordered, versions.values()))
    coming = {f"{major}.{minor + 1}.0", f"{major + 1}.0.0"}
    wrong = {
        name: said
        for name, said in said_versions().items()
        if (said != versions[name] if name in versions else said not in coming)
    }
    assert not wrong, f"what the changelog does not name yet says one of {sorted(coming)}"


def ordered(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_execution_environments_get_what_the_controller_needs(installed: Path, elsewhere: Path) -> None:
    """ansible-builder reads the collection's requirements from it, and leaves ansible-core to the environment itself."""
    found = yaml.safe_load(run("ansible-builder", "introspect", installed, cwd=elsewhere).split("---", 1)[1])
    wanted = [
        line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
    ]
    named = [entry.split("  #")[0] for entry in found["python"] if f"{NAMESPACE}.{NAME}" in entry]
    assert sorted(named) == sorted(line for line in wanted if not line.startswith("ansible-core"))
    assert any(entry.startswith("openssh-client ") for entry in found["system"])


def test_dependencies_are_those_in_use() -> None:
    declared = set(yaml.safe_load((ROOT / "galaxy.yml").read_text())["dependencies"])
    sources = [path for top in ("roles", "playbooks") for path in (ROOT / top).rglob("*.y*ml")]
    used = {
        match
        for path in sources
        for match in re.findall(r"\b((?:ansible|community)\.[a-z_]+)\.[a-z_]+\b", path.read_text())
        if not match.startswith("ansible.builtin")
    }
    assert used == declared


@pytest.mark.parametrize("playbook", sorted(path.stem for path in (ROOT / "playbooks").glob("*.yml")))
def test_playbooks_run_by_name_from_any_folder(playbook: str, installed: Path, elsewhere: Path) -> None:
    name = f"{NAMESPACE}.{NAME}.{playbook}"
    inventory = ("--inventory", "hosts.yml")
    listing = run(
        "ansible-playbook", *inventory, name, "--list-tasks", cwd=elsewhere, ANSIBLE_COLLECTIONS_PATH=str(installed)
    )
    assert f"playbook: {installed}/ansible_collections/{NAMESPACE}/{NAME}/playbooks/{playbook}.yml" in listing
    assert re.search(r"TAGS: \[", listing), f"{name} has no task:\n{listing}"


def test_modules_are_documented_by_name(installed: Path, elsewhere: Path) -> None:
    names = [f"{NAMESPACE}.{NAME}.{module}" for module in sorted(modules())]
    text = run("ansible-doc", "--json", *names, cwd=elsewhere, ANSIBLE_COLLECTIONS_PATH=str(installed))
    documents = json.loads(text)
    assert sorted(documents) == names
    for name, document in documents.items():
        assert document["doc"]["collection"] == f"{NAMESPACE}.{NAME}"
        assert str(installed) in document["doc"]["filename"], f"{name} comes from {document['doc']['filename']}"
