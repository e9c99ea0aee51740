# SPDX-License-Identifier: Apache-2.0
"""Manifests against the schemas of CloudNativePG 1.30 and the Barman Cloud plugin, with unknown fields refused."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes import render
from unit.kubernetes.tiers import CERTIFICATES, ROOT, variants


@pytest.fixture(name="schemas", scope="session")
def _schemas() -> dict[str, dict[str, Any]]:
    """Return the schema of each kind, closed."""
    folder = os.environ.get("HOLDFAST_SCHEMAS")
    assert folder, (
        "HOLDFAST_SCHEMAS is not set: name the folder with the *.crd.yaml of CloudNativePG and of the Barman Cloud plugin"
    )
    found = {}
    for path in sorted(Path(folder).glob("*.crd.yaml")):
        definition = yaml.safe_load(path.read_text())["spec"]
        (version,) = definition["versions"]
        found[definition["names"]["kind"]] = closed(version["schema"]["openAPIV3Schema"])
    assert {"Cluster", "Pooler", "ScheduledBackup", "Database", "ObjectStore"} <= found.keys()
    return found


def closed(schema: Any) -> Any:
    """Return a schema that refuses fields which it does not name, and takes numbers for text where Kubernetes does."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        key: closed(value) if key != "properties" else {n: closed(v) for n, v in value.items()}
        for key, value in schema.items()
    }
    if (
        "properties" in schema
        and "additionalProperties" not in schema
        and not schema.get("x-kubernetes-preserve-unknown-fields")
    ):
        found["additionalProperties"] = False
    return found


def faults(manifest: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield what is wrong with a manifest."""
    # metadata is Kubernetes' own; the definition says no more than that it is an object.
    schema = {
        **schemas[manifest["kind"]],
        "properties": {**schemas[manifest["kind"]]["properties"], "metadata": {"type": "object"}},
    }
    for error in jsonschema.Draft4Validator(schema).iter_errors(manifest):
        yield f"{'.'.join(map(str, error.absolute_path))}: {error.message}"


@pytest.mark.parametrize("name", variants())
def test_ours_fit(name: str, schemas: dict[str, dict[str, Any]]) -> None:
    files = render.files(variants()[name], CERTIFICATES)
    custom = [item for part in files.values() for item in part if "cnpg.io" in item["apiVersion"]]
    assert custom or name == "valkey alone"
    assert [fault for item in custom for fault in faults(item, schemas)] == []


def test_an_outdated_one_does_not_fit(schemas: dict[str, dict[str, Any]]) -> None:
    manifest = yaml.safe_load((ROOT / "tests/data/outdated_cluster.yml").read_text())
    assert sorted(faults(manifest, schemas)) == [
        "spec.backup.target: 's3' is not one of ['primary', 'prefer-standby']",
        "spec.backup: Additional properties are not allowed ('s3' was unexpected)",
        "spec.monitoring: Additional properties are not allowed ('enabled' was unexpected)",
    ]
