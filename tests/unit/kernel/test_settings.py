# SPDX-License-Identifier: Apache-2.0
"""Names and values of kernel settings."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.kernel.settings import (
    current,
    explain,
    normalise,
    to_setting,
)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("vm.swappiness", "/proc/sys/vm/swappiness"),
        ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
        ("/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/transparent_hugepage/enabled"),
    ],
)
def test_paths(name, path):
    assert to_setting(name, 10).path == path


@pytest.mark.parametrize("name", ["", " ", "../../etc/passwd", "vm..swappiness"])
def test_names_that_leave_the_tree_are_refused(name):
    with pytest.raises(ValueError, match="not the name"):
        to_setting(name, 1)


def test_values_compare_without_their_blanks():
    assert to_setting("net.ipv4.tcp_rmem", " 4096  87380 6291456").value == normalise("4096\t87380\t6291456\n")


def test_chosen_value_of_a_list():
    assert current("always [madvise] never\n") == "madvise"
    assert current("60\n") == "60"
    assert current("[only]\n") == "[only]"


def test_refusals_are_one_sentence():
    text = explain({"vm.b": "read-only on this machine", "vm.a": "read-only on this machine", "x": "unknown"})
    assert text == "Kernel settings left as they are; read-only on this machine: vm.a, vm.b; unknown: x"
