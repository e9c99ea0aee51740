# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Copies of file backups in object stores, carried by rclone.

A backup's files go first, are verified, and then its manifest: a copy without a manifest is none. So a killed upload is never
listed, and the next run continues with the files that are missing.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ansible_collections.holdfast.persistence.plugins.module_utils.backup import catalogue, retention, store
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import context as contexts
from ansible_collections.holdfast.persistence.plugins.module_utils.backup import manifest as manifests
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.context import Context, Result
from ansible_collections.holdfast.persistence.plugins.module_utils.backup.jobs import Job
from ansible_collections.holdfast.persistence.plugins.module_utils.files.content import make_folders
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

LIST_SECONDS = 300
# Longer than a job may run.
SIGNATURE_LASTS = datetime.timedelta(days=2)
_BASE, _CRYPT = "base", "store"
_SCHEMES = ("http://", "https://")


class Target:
    """One place off site.

    Parameters: declared, its entry of the configuration: name, type (s3, azure), bucket or container, prefix, credentials;
    context. A target with crypt_password holds names and contents encrypted on this host.
    """

    def __init__(self, context: Context, declared: Mapping[str, Any]) -> None:
        self.name = declared["name"]
        self._declared = declared
        self._context = context
        self.encrypted = bool(declared.get("crypt_password"))
        self._environment = self._settings()

    def _settings(self) -> dict[str, str]:
        declared = self._declared
        values = _s3(declared) if declared["type"] == "s3" else _azure(declared)
        found = {f"RCLONE_CONFIG_{_BASE.upper()}_{key.upper()}": str(value) for key, value in values.items() if value}
        found["RCLONE_CONFIG"] = "/dev/null"
        if declared.get("ca_file"):
            found["RCLONE_CA_CERT"] = declared["ca_file"]
        if self.encrypted:
            crypt = {
                "type": "crypt",
                "remote": self._base(),
                "password": _obscured(declared["crypt_password"]),
                "filename_encryption": "standard",
            }
            found.update({f"RCLONE_CONFIG_{_CRYPT.upper()}_{key.upper()}": value for key, value in crypt.items()})
        return found

    def _base(self) -> str:
        declared = self._declared
        root = declared["bucket"] if declared["type"] == "s3" else declared["container"]
        prefix = (declared.get("prefix") or self._context.cluster).strip("/")
        return f"{_BASE}:{root}/{prefix}"

    def path(self, *parts: str) -> str:
        """Return how rclone calls a path of this place."""
        root = f"{_CRYPT}:" if self.encrypted else f"{self._base()}/"
        return root + "/".join(parts)

    def rclone(self, *arguments: str, seconds: float | None = None) -> str:
        """Run rclone; return what it printed. Raises Refusal with this place's name."""
        options = ["--retries=3", "--low-level-retries=3", "--contimeout=10s", "--timeout=60s"]
        if self._declared.get("rate"):
            options.append(f"--bwlimit={self._declared['rate']}B")
        return contexts.run(
            ["rclone", *arguments, *options],
            environment=self._environment,
            seconds=seconds,
            what=f"off site {self.name}: rclone {arguments[0]}",
        )

    def files(self, engine: str) -> dict[str, dict[str, int]]:
        """Return the sizes of an engine's files, by label and path. Raises Refusal."""
        try:
            text = self.rclone("lsjson", "--recursive", "--files-only", self.path(engine), seconds=LIST_SECONDS)
        except Refusal as error:
            # An object store has no empty folders.
            if "directory not found" in str(error):
                return {}
            raise
        found: dict[str, dict[str, int]] = {}
        for entry in json.loads(text):
            label, _slash, path = entry["Path"].partition("/")
            found.setdefault(label, {})[path] = entry["Size"]
        return found

    def read(self, engine: str) -> list[store.Found]:
        """Return the copies of an engine's backups that claim to be whole. Raises Refusal."""
        listed = self.files(engine)
        found = []
        with self._manifests(engine, listed) as folder:
            for label, sizes in sorted(listed.items()):
                if manifests.FILE_NAME in sizes and manifests.is_label(label):
                    found.append(_judge(engine, label, self.path(engine, label), sizes, os.path.join(folder, label)))
        return found

    @contextmanager
    def _manifests(self, engine: str, listed: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
        with tempfile.TemporaryDirectory(prefix="holdfast-offsite-") as folder:
            if any(manifests.FILE_NAME in sizes for sizes in listed.values()):
                self.rclone(
                    "copy", f"--include=/*/{manifests.FILE_NAME}", self.path(engine), folder, seconds=LIST_SECONDS
                )
            yield folder

    def put(self, engine: str, label: str, folder: str) -> None:
        """Copy a backup: its files, then the proof that they arrived, then its manifest. Raises Refusal."""
        place = self.path(engine, label)
        without = f"--exclude=/{manifests.FILE_NAME}"
        # Whatever is there of another backup of this label, or of a killed run, is brought to the same content.
        self.rclone("sync", without, "--checksum", folder, place)
        self.verify(folder, place, without)
        self.rclone("copyto", os.path.join(folder, manifests.FILE_NAME), f"{place}/{manifests.FILE_NAME}")

    def verify(self, folder: str, place: str, *options: str) -> None:
        """Compare a copy with the backup by checksum. Raises Refusal where they differ."""
        if self._declared.get("verify") == "content":
            self.rclone("check", *options, "--download", folder, place)
        elif self.encrypted:
            self.rclone("cryptcheck", *options, folder, place)
        else:
            self.rclone("check", *options, folder, place)

    def remove(self, engine: str, label: str) -> None:
        """Delete a copy: its manifest first, so that it is none from then on. Raises Refusal."""
        if not manifests.is_label(label):
            raise ValueError(f"{label!r} is not a label")
        self.rclone("deletefile", f"{self.path(engine, label)}/{manifests.FILE_NAME}")
        self.rclone("purge", self.path(engine, label))

    def sweep(self, engine: str, keep: Iterable[str]) -> list[str]:
        """Delete what has no manifest and is not about to be finished. Raises Refusal."""
        wanted = set(keep)
        found = [
            label
            for label, sizes in self.files(engine).items()
            if manifests.is_label(label) and manifests.FILE_NAME not in sizes and label not in wanted
        ]
        for label in found:
            self.rclone("purge", self.path(engine, label))
        return found

    def get(self, engine: str, label: str, backup_dir: str) -> str:
        """Bring a copy back as a backup of this host, verified by its digests; return its path. Raises Refusal."""
        final = os.path.join(backup_dir, engine, label)
        if os.path.exists(final):
            raise Refusal(f"{final} exists already")
        partial = final + manifests.PARTIAL
        make_folders(partial, 0o750)
        self.rclone("copy", "--checksum", self.path(engine, label), partial)
        found = store.look_at(partial, engine, label, deep=True)
        if found.problems:
            shutil.rmtree(partial)
            raise Refusal(f"{label} of {self.name} is not whole: {'; '.join(found.problems)}")
        os.rename(partial, final)
        return final


def _s3(declared: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "s3",
        "provider": declared.get("provider", "Other"),
        "access_key_id": declared.get("key"),
        "secret_access_key": declared.get("key_secret"),
        "region": declared.get("region"),
        "endpoint": _url(declared.get("endpoint"), declared.get("port")),
        "force_path_style": "true" if declared.get("uri_style", "path") == "path" else "false",
        "no_check_bucket": "true",
        "env_auth": "" if declared.get("key") else "true",
    }


def _azure(declared: Mapping[str, Any]) -> dict[str, Any]:
    endpoint = _url(declared.get("endpoint"), declared.get("port"))
    if endpoint and declared.get("uri_style", "host") == "path":
        # rclone puts the account before the host name, unless it is given a whole URL with a signature.
        query = signature(declared["account"], declared["key"], contexts.now() + SIGNATURE_LASTS)
        return {"type": "azureblob", "sas_url": f"{endpoint}/{declared['account']}?{query}"}
    return {
        "type": "azureblob",
        "account": declared["account"],
        "key": declared.get("key"),
        "endpoint": endpoint.removeprefix("https://"),
        "env_auth": "" if declared.get("key") else "true",
    }


def signature(account: str, key: str, end: datetime.datetime) -> str:
    """Return the query that lets a client use a storage account until a time (account SAS, blobs only)."""
    fields = {
        "sp": "rwdlac",
        "ss": "b",
        "srt": "sco",
        "st": "",
        "se": end.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "sip": "",
        "spr": "https",
        "sv": "2019-12-12",
    }
    text = "\n".join([account, *fields.values(), ""])
    digest = hmac.new(base64.b64decode(key), text.encode(), hashlib.sha256).digest()
    given = {name: value for name, value in fields.items() if value}
    return urllib.parse.urlencode({**given, "sig": base64.b64encode(digest).decode()})


def _url(endpoint: str | None, port: int | None) -> str:
    if not endpoint:
        return ""
    url = endpoint if endpoint.startswith(_SCHEMES) else f"https://{endpoint}"
    return f"{url}:{port}" if port else url


def _obscured(password: str) -> str:
    """rclone wants passwords in a form of its own; it is no protection."""
    return contexts.run(["rclone", "obscure", "-"], given=password, what="rclone obscure").strip()


def _judge(engine: str, label: str, location: str, sizes: Mapping[str, int], folder: str) -> store.Found:
    try:
        with open(os.path.join(folder, manifests.FILE_NAME), encoding="utf-8") as file:
            text = file.read()
        manifest = manifests.parse(text, label)
    except (OSError, UnicodeDecodeError, Refusal) as error:
        return store.Found(engine, label, location, None, "", (f"{manifests.FILE_NAME}: {error}",))
    sha256 = hashlib.sha256(text.encode()).hexdigest()
    return store.Found(engine, label, location, manifest, sha256, tuple(manifests.problems(manifest, sizes)))


def targets(context: Context, wanted: Iterable[str] = ()) -> list[Target]:
    """Return the places off site, or those named. Raises Refusal for an unknown name."""
    declared = {item["name"]: item for item in context.config.get("offsite") or []}
    names = list(wanted) or list(declared)
    unknown = [name for name in names if name not in declared]
    if unknown:
        raise Refusal(f"there is no place off site called {unknown[0]}; there are {', '.join(declared) or 'none'}")
    return [Target(context, declared[name]) for name in names]


def rule_of(context: Context, target: str, engine: str) -> retention.Rule | None:
    """Return the rule by which copies of an engine are kept, None where all are."""
    declared = next(item for item in context.config.get("offsite") or [] if item["name"] == target)
    entry = (declared.get("retention") or {}).get(engine)
    return retention.parse_rule(entry, f"backup_offsite {target}: retention of {engine}") if entry else None


def upload(context: Context, job: Job) -> Result:
    """Copy every good backup that a place off site lacks and would keep. Raises Refusal after all were tried."""
    engines = job.options.get("engines") or list(manifests.ENGINES)
    done: dict[str, list[str]] = {}
    size, errors = 0, []
    for target in targets(context, job.options.get("targets") or []):
        for engine in engines:
            try:
                labels, carried = _upload(context, target, engine)
            except Refusal as error:
                errors.append(str(error))
                continue
            done.setdefault(engine, []).extend(f"{target.name}/{label}" for label in labels)
            size += carried
    if errors:
        raise Refusal("; ".join(errors))
    return Result(f"{sum(map(len, done.values()))} copies made", done, size)


def _upload(context: Context, target: Target, engine: str) -> tuple[list[str], int]:
    local = [found for found in store.read(context.backup_dir, engine) if found.manifest and not found.problems]
    there = {found.label for found in target.read(engine) if not found.problems}
    missing = [found for found in local if found.label not in there]
    labels, size = [], 0
    for found in _worth_copying(context, target, engine, missing, there):
        # What lies here is read whole before it is carried away: a rotten backup must not replace a good copy.
        deep = store.look(context.backup_dir, engine, found.label, deep=True)
        if deep.problems or deep.manifest is None:
            raise Refusal(f"{found.path} is not whole, so it was not copied: {'; '.join(deep.problems)}")
        target.put(engine, found.label, found.path)
        labels.append(found.label)
        size += deep.manifest.bytes
    return labels, size


def _worth_copying(
    context: Context, target: Target, engine: str, missing: list[store.Found], there: set[str]
) -> list[store.Found]:
    """Return the backups that the place's own rule would not delete at once."""
    rule = rule_of(context, target.name, engine)
    if rule is None:
        return missing
    everything = [found for found in store.read(context.backup_dir, engine) if found.label in there or found in missing]
    entries = [
        catalogue.from_manifest(found.manifest, target.name, found.path, sha256=found.sha256)
        for found in everything
        if found.manifest
    ]
    plan = retention.plan(catalogue.items(entries), rule, contexts.now().timestamp())
    kept = {decision.label for decision in plan if decision.keep}
    return [found for found in missing if found.label in kept]
