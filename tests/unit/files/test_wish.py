# SPDX-License-Identifier: Apache-2.0
"""Comparing wished and found files."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.files.wish import (
    FileWish,
    Found,
    compare,
    parse_mode,
    show,
)

WISH = FileWish("/etc/x", "a\nb\n", "root", "root", 0o644)
SAME = Found("file", b"a\nb\n", "root", "root", 0o644)


def test_nothing_to_do_for_an_equal_file():
    assert not compare(WISH, SAME)


def test_missing_file_is_written():
    difference = compare(WISH, Found())
    assert difference.rewrite
    assert show(WISH, Found(), difference).endswith("--- /dev/null\n+++ /etc/x\n@@ -0,0 +1,2 @@\n+a\n+b\n")


@pytest.mark.parametrize(
    ("found", "reason", "rewrite"),
    [
        (Found("file", b"a\n", "root", "root", 0o644), "content differs", True),
        (Found("file", b"a\nb\n", "etcd", "root", 0o644), "belongs to etcd:root, not root:root", False),
        (Found("file", b"a\nb\n", "root", "root", 0o600), "has mode 0600, not 0644", False),
        (Found("other", b"", "root", "root", 0o644), "content differs", True),
    ],
)
def test_each_difference_is_told(found, reason, rewrite):
    difference = compare(WISH, found)
    assert difference.reasons == (reason,)
    assert difference.rewrite is rewrite


def test_folder_in_the_place_of_a_file_is_never_replaced():
    assert compare(WISH, Found("folder")).blocker
    assert compare(FileWish("/etc/x", None, "root", "root", 0o755), SAME).blocker


def test_folder_has_only_owner_and_mode():
    wish = FileWish("/etc/x", None, "root", "root", 0o755)
    assert not compare(wish, Found("folder", b"", "root", "root", 0o755))
    assert compare(wish, Found()).rewrite


def test_sensitive_content_never_shows():
    wish = FileWish("/etc/key", "secret\n", "root", "root", 0o600, sensitive=True)
    found = Found("file", b"older\n", "root", "root", 0o600)
    assert show(wish, found, compare(wish, found)) == "# /etc/key content differs\n"


def test_mode_is_octal_text():
    assert parse_mode("0640") == 0o640
    for wrong in ("", "rw-r--r--", "99999", "-1", "0999"):
        with pytest.raises(ValueError, match="octal"):
            parse_mode(wrong)
