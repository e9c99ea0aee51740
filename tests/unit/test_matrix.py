# SPDX-License-Identifier: Apache-2.0
"""What is said about releases of ansible-core is what the matrix runs."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def matrix() -> ModuleType:
    specification = importlib.util.spec_from_file_location("matrix", ROOT / "tools/matrix.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # Dataclasses look their module up.
    sys.modules["matrix"] = module
    specification.loader.exec_module(module)
    return module


def minor(release: str) -> int:
    major, number = release.split(".")
    assert major == "2"
    return int(number)


def test_the_collection_requires_what_was_run(matrix: ModuleType) -> None:
    numbers = [minor(environment.core) for environment in matrix.ENVIRONMENTS]
    assert numbers == list(range(numbers[0], numbers[-1] + 1))
    runtime = yaml.safe_load((ROOT / "meta/runtime.yml").read_text(encoding="utf-8"))
    assert runtime["requires_ansible"] == f">=2.{numbers[0]}.0,<2.{numbers[-1] + 1}.0"
    assert f"ansible-core>=2.{numbers[0]}" in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", sorted((ROOT / "roles").glob("*/meta/main.yml")), ids=lambda path: path.parts[-3])
def test_roles_name_the_oldest_release(path: Path, matrix: ModuleType) -> None:
    said = yaml.safe_load(path.read_text(encoding="utf-8"))["galaxy_info"]["min_ansible_version"]
    assert said == matrix.ENVIRONMENTS[0].core


def test_the_workflow_runs_the_matrix(matrix: ModuleType) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    jobs = workflow["jobs"]["matrix"]["strategy"]["matrix"]["include"]
    assert jobs == [{"core": environment.core, "python": environment.python} for environment in matrix.ENVIRONMENTS]


def test_collections_that_playbooks_depend_on_are_unpacked(matrix: ModuleType) -> None:
    named = yaml.safe_load((ROOT / "galaxy.yml").read_text(encoding="utf-8"))["dependencies"]
    assert {f"ansible_collections/{name.replace('.', '/')}/" for name in named} <= set(matrix.COLLECTIONS)


def test_what_is_left_out_is_pinned(matrix: ModuleType) -> None:
    """A name that requirements-dev.txt no longer has would leave nothing out."""
    pins = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8")
    assert all(f"\n{name}==" in pins or f"\n{name}[" in pins for name in matrix.LEFT_OUT)
    assert not {line.split("=")[0] for line in matrix.requirements(matrix.ENVIRONMENTS[0])[1:]} & matrix.LEFT_OUT
