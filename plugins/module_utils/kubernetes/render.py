# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""All manifests of a tier, by the file that they go into. No I/O."""

from __future__ import annotations

from collections.abc import Mapping

from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes import postgresql, valkey
from ansible_collections.holdfast.persistence.plugins.module_utils.kubernetes.model import (
    LABEL,
    Manifest,
    Tier,
    manifest,
    secret,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

# What lies in the folder when an engine is there; the secrets go in first.
FILES = ("namespace.yml", "secrets.yml", "postgresql.yml", "valkey.yml")
SECRETS = "secrets.yml"


def files(tier: Tier, certificates: Mapping[str, Mapping[str, str]]) -> dict[str, list[Manifest]]:
    """Return manifests by name of file, in the order in which they are applied.

    certificates: for valkey and machines, as far as they are needed, ca.crt, tls.crt and tls.key. Raises Refusal.
    """
    for what, name in (("cluster_name", tier.name), ("kubernetes_namespace", tier.namespace)):
        if not LABEL.match(name):
            raise Refusal(
                f"{what} is {name!r}: allowed are small letters, digits and dashes, 40 at most, a letter first"
            )
    if tier.postgresql is None and tier.valkey is None:
        raise Refusal("neither the group postgresql nor the group valkey has a host, so there is nothing to render")
    parts = {"postgresql.yml": postgresql.manifests(tier), "valkey.yml": valkey.manifests(tier)}
    namespace = manifest("v1", "Namespace", tier, tier.namespace)
    del namespace["metadata"]["namespace"]
    secrets = [item for part in parts.values() for item in part if item["kind"] == "Secret"]
    secrets += [
        secret(tier, f"{tier.name}-{name}-tls", content, "kubernetes.io/tls") for name, content in certificates.items()
    ]
    rest = {name: [item for item in part if item["kind"] != "Secret"] for name, part in parts.items()}
    return {name: part for name, part in {"namespace.yml": [namespace], SECRETS: secrets, **rest}.items() if part}
