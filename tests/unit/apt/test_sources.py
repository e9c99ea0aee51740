# SPDX-License-Identifier: Apache-2.0
"""Reading apt's sources in both formats."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.apt.sources import (
    Source,
    has_suite,
    parse_deb822,
    parse_list,
    pins,
    render,
    suite_beside,
)

ONE_LINE = """\
# deb http://commented.example/debian bookworm main
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian bookworm main contrib # why
deb http://mirror.example/security bookworm-security main
"""

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc

Types: deb
URIs: http://off.example/debian
Suites: bookworm-backports
Components: main
Enabled: no
"""


def test_one_line_style():
    first, second = parse_list(ONE_LINE)
    assert first == Source(
        ("http://mirror.example/debian",),
        ("bookworm",),
        ("main", "contrib"),
        {"signed-by": "/usr/share/keyrings/k.gpg"},
    )
    assert second.suites == ("bookworm-security",)


def test_deb822_style_skips_what_is_not_enabled():
    (only,) = parse_deb822(DEB822)
    assert only.suites == ("bookworm", "bookworm-updates")
    assert only.options["signed-by"].startswith("\n-----BEGIN")


@pytest.mark.parametrize("sources", [parse_list(ONE_LINE), parse_deb822(DEB822)])
def test_backports_come_from_the_same_mirror_with_the_same_key(sources):
    backports = suite_beside(sources, "bookworm", "bookworm-backports")
    assert backports.uris == ("http://mirror.example/debian",)
    assert parse_deb822(render(backports)) == [backports]
    assert has_suite([backports], "bookworm-backports")
    assert not has_suite(sources, "bookworm-backports")


def test_host_without_the_release_is_refused():
    with pytest.raises(LookupError, match="serves trixie"):
        suite_beside(parse_list(ONE_LINE), "trixie", "forky")


def test_pins_let_named_packages_alone_come_from_the_suite():
    general, named = pins("forky", ["valkey-server", "valkey-tools"]).split("\n\n")
    assert "Package: *\nPin: release n=forky\nPin-Priority: 50" in general
    assert named == "Package: valkey-server valkey-tools\nPin: release n=forky\nPin-Priority: 600\n"
