# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Package sources of the host on which this runs, as files."""

from __future__ import annotations

import glob
import os

from ansible_collections.holdfast.persistence.plugins.module_utils.apt.sources import (
    Source,
    has_suite,
    parse_deb822,
    parse_list,
    pins,
    render,
    suite_beside,
)

APT = "/etc/apt"
SOURCE = f"{APT}/sources.list.d/holdfast-backports.sources"
PREFERENCES = f"{APT}/preferences.d/holdfast-backports"


def read_sources(without: str) -> list[Source]:
    """Return all sources of the host except those of the file `without`. Raises OSError."""
    sources = []
    names = [os.path.join(APT, "sources.list"), *sorted(glob.glob(os.path.join(APT, "sources.list.d", "*")))]
    for name in names:
        if name != without and os.path.isfile(name):
            with open(name, encoding="utf-8") as stream:
                text = stream.read()
            if name.endswith(".list"):
                sources += parse_list(text)
            elif name.endswith(".sources"):
                sources += parse_deb822(text)
    return sources


def wishes(
    release: str, suite: str, packages: list[str], *, source: str = SOURCE, preferences: str = PREFERENCES
) -> dict[str, str]:
    """Return the files that add a suite, by path, in the order to write them.

    Parameters: release, code name of the host's; suite, the one to add; packages that come from there whatever others have;
    source and preferences, paths of the files. Raises LookupError where no source serves the release, OSError.
    """
    found = {preferences: pins(suite, packages)} if packages else {}
    sources = read_sources(without=source)
    if not has_suite(sources, suite):
        found[source] = render(suite_beside(sources, release, suite))
    return found
