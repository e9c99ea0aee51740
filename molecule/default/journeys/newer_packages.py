# SPDX-License-Identifier: Apache-2.0
"""A package repository on the lab's hosts with the very packages that are installed, under a higher version.

Only the version differs, but dpkg replaces every file, so that programs have to restart as after any upgrade.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

FOLDER = "/srv/newer"
LIST = "/etc/apt/sources.list.d/newer.list"

# On one host: fetch the archives, give them a higher version (in relations between them too), write the index.
BUILD = r"""
set -eu
rm -rf {folder} /srv/newer.work; mkdir -p {folder} /srv/newer.work; cd /srv/newer.work
apt-get -qq update
for package in {packages}; do
  version=$(dpkg-query --show --showformat '${{Version}}' "$package")
  version=${{version%%+holdfast*}}
  apt-get -qq download "$package=$version"
  dpkg-deb --raw-extract "$package"_*.deb tree
  sed -i "s/$(printf %s "$version" | sed 's/[.]/\\&/g')/$version{suffix}/g" tree/DEBIAN/control
  dpkg-deb -Znone --root-owner-group --build tree "{folder}/$package.deb" > /dev/null
  rm -rf tree ./*.deb
done
cd {folder}
for archive in *.deb; do
  dpkg-deb --field "$archive"
  echo "Filename: ./$archive"
  echo "Size: $(stat -c %s "$archive")"
  echo "SHA256: $(sha256sum "$archive" | cut -d' ' -f1)"
  echo
done > Packages
"""


def run(container: str, script: str) -> str:
    """Run a shell script on a host; AssertionError with what it said where it fails."""
    done = subprocess.run(
        ["docker", "exec", container, "sh", "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def offer(containers: Sequence[str], packages: Sequence[str], suffix: str) -> None:
    """Let apt on all hosts find the packages of the first one with a suffix to their version, which begins with +holdfast."""
    withdraw(containers)
    first, *others = containers
    run(first, BUILD.format(folder=FOLDER, packages=" ".join(packages), suffix=suffix))
    for container in others:
        pipe = f"docker exec {first} tar -C /srv -c newer | docker exec -i {container} tar -C /srv -x"
        subprocess.run(["bash", "-o", "pipefail", "-c", pipe], check=True)
    for container in containers:
        run(container, f"echo 'deb [trusted=yes] file:{FOLDER} ./' > {LIST}")


def versions(container: str, packages: Sequence[str]) -> dict[str, str]:
    """Return what dpkg says of the packages that a host has."""
    out = run(
        container,
        f"dpkg-query --show --showformat '${{Package}} ${{Version}} ${{db:Status-Status}}\\n' {' '.join(packages)} || true",
    )
    rows = (line.split() for line in out.splitlines())
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}


def withdraw(containers: Sequence[str]) -> None:
    """Take the repository away; what was installed from it stays."""
    for container in containers:
        run(container, f"rm -rf {FOLDER} /srv/newer.work {LIST}")
