# SPDX-License-Identifier: Apache-2.0
"""Settings that PostgreSQL would refuse are found before it is asked to take them."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.postgresql.settings import (
    Pages,
    Setting,
    buffers_bytes,
    from_rows,
    host_problems,
    parse_pages,
    problems,
    value_fault,
)
from hypothesis import given
from hypothesis import strategies as st

# Rows of PostgreSQL 17.
ROWS = [
    ("shared_buffers", "integer", "8kB", "16", "1073741823", None, "postmaster"),
    ("work_mem", "integer", "kB", "64", "2147483647", None, "user"),
    ("checkpoint_timeout", "integer", "s", "30", "86400", None, "sighup"),
    ("wal_receiver_timeout", "integer", "ms", "0", "2147483647", None, "sighup"),
    ("random_page_cost", "real", None, "0", "1.79769e+308", None, "user"),
    ("checkpoint_completion_target", "real", None, "0", "1", None, "sighup"),
    ("max_connections", "integer", None, "1", "262143", None, "postmaster"),
    ("wal_level", "enum", None, None, None, ["minimal", "replica", "logical"], "postmaster"),
    ("wal_compression", "enum", None, None, None, ["pglz", "lz4", "zstd", "on", "off"], "superuser"),
    ("track_io_timing", "bool", None, None, None, None, "superuser"),
    ("log_line_prefix", "string", None, None, None, None, "sighup"),
    ("block_size", "integer", None, "8192", "8192", None, "internal"),
    ("shared_preload_libraries", "string", None, None, None, None, "postmaster"),
    ("listen_addresses", "string", None, None, None, None, "postmaster"),
    ("DateStyle", "string", None, None, None, None, "user"),
    ("wal_segment_size", "integer", "B", "1048576", "1073741824", None, "internal"),
]
SETTINGS = from_rows(ROWS)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shared_buffers", "256MB"),
        ("shared_buffers", "1.5GB"),
        ("shared_buffers", 32768),
        ("work_mem", "16 MB"),
        ("work_mem", "0x40"),
        ("checkpoint_timeout", "15min"),
        ("checkpoint_timeout", "30000ms"),
        ("wal_receiver_timeout", "15s"),
        ("random_page_cost", 1.1),
        ("checkpoint_completion_target", "0.9"),
        ("max_connections", "200"),
        ("wal_level", "LOGICAL"),
        ("wal_compression", "on"),
        ("wal_compression", True),
        ("wal_compression", "yes"),
        ("track_io_timing", "on"),
        ("track_io_timing", False),
        ("track_io_timing", "t"),
        ("log_line_prefix", "%m "),
        ("datestyle", "ISO"),
        ("work_mem", None),
    ],
)
def test_what_the_server_takes(name, value):
    assert list(problems({name: value}, SETTINGS)) == []


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "work_mem",
            "16mb",
            "of which the unit 'mb' is not known here; allowed is a number with or without one of B, kB, MB, GB, TB",
        ),
        ("work_mem", "32kB", "allowed is 64 to 2147483647 in units of kB"),
        (
            "work_mem",
            "much",
            "allowed is a number with or without one of B, kB, MB, GB, TB, 64 to 2147483647 in units of kB",
        ),
        ("shared_buffers", "64kB", "allowed is 16 to 1073741823 in units of 8kB"),
        ("checkpoint_timeout", "10s", "allowed is 30 to 86400 in units of s"),
        ("checkpoint_timeout", "15MB", "of which the unit 'MB' is not known here"),
        (
            "max_connections",
            "200MB",
            "of which the unit 'MB' is not known here; allowed is a number without a unit, 1 to 262143",
        ),
        ("max_connections", 0, "allowed is 1 to 262143"),
        ("checkpoint_completion_target", 2, "allowed is 0 to 1"),
        ("wal_level", "archived", "allowed are minimal, replica, logical"),
        ("wal_level", "on", "allowed are minimal, replica, logical"),
        ("track_io_timing", "maybe", "allowed are on and off"),
        ("track_io_timing", "o", "allowed are on and off"),
        ("work_mem", ["16MB"], "allowed is a single value"),
        ("block_size", 8192, "which is fixed when the server is built"),
        ("listen_addresses", "*", "is Patroni's own, it would drop it"),
        ("wrok_mem", "16MB", "is not a setting of this PostgreSQL; did you mean work_mem?"),
        ("pg_stat_statements.max", 5000, "is of an extension that is not loaded"),
    ],
)
def test_what_the_server_refuses_is_told_with_what_is_allowed(name, value, text):
    (found,) = problems({name: value}, SETTINGS)
    assert found.startswith(name)
    assert text in found


def test_settings_of_extensions_that_are_declared_or_loaded():
    assert list(problems({"auto_explain.log_min_duration": "1s"}, SETTINGS, ["auto_explain"])) == []
    loads = {"shared_preload_libraries": "auto_explain, pg_stat_statements", "pg_stat_statements.max": 5000}
    assert list(problems(loads, SETTINGS)) == []
    known = {
        **SETTINGS,
        **from_rows([("pg_stat_statements.max", "integer", None, "100", "1073741823", None, "postmaster")]),
    }
    (found,) = problems({"pg_stat_statements.maximum": 5000}, known)
    assert "did you mean pg_stat_statements.max?" in found


@given(st.text(max_size=20), st.sampled_from(sorted(SETTINGS)))
def test_any_text_is_judged(text, name):
    assert isinstance(value_fault(SETTINGS[name], text), str)


@given(st.integers(-(10**6), 10**6), st.integers(-1000, 1000), st.integers(1, 1000))
def test_ranges_are_kept(value, least, width):
    setting = Setting("x", "integer", "", str(least), str(least + width))
    assert bool(value_fault(setting, value)) == (not least <= value <= least + width)


MEMINFO = (
    "MemTotal:       24000000 kB\nHugePages_Total:     100\nHugePages_Free:        9\nHugepagesize:       2048 kB\n"
)
PAGES = Pages(100, 2 * 1024**2)


def test_huge_pages_are_read_from_the_kernel():
    assert parse_pages(MEMINFO) == PAGES
    assert parse_pages("MemTotal: 1 kB\n") == Pages(0, 0)


def test_a_library_that_the_host_has_not_is_told():
    loads = {"shared_preload_libraries": 'pg_stat_statements, "nosuch"', "session_preload_libraries": "auto_explain"}
    (found,) = host_problems(loads, lambda library: library != "nosuch", PAGES)
    assert found.startswith("shared_preload_libraries names nosuch, which this host has not")
    assert list(host_problems(loads, lambda _library: True, PAGES)) == []


@pytest.mark.parametrize(
    ("parameters", "refused"),
    [
        ({"huge_pages": "on", "shared_buffers": "128MB"}, False),
        ({"huge_pages": True, "shared_buffers": "1GB"}, True),
        ({"huge_pages": "on", "shared_buffers": 65536}, True),
        ({"huge_pages": "on"}, False),
        ({"huge_pages": "try", "shared_buffers": "1GB"}, False),
        ({"shared_buffers": "1GB"}, False),
    ],
)
def test_huge_pages_that_the_kernel_does_not_keep_are_refused(parameters, refused):
    assert bool(list(host_problems(parameters, lambda _library: True, PAGES))) is refused
    assert bool(list(host_problems(parameters, lambda _library: True, Pages(0, 0)))) is (
        str(parameters.get("huge_pages")) in ("on", "True")
    )


@given(st.text(max_size=12))
def test_any_shared_buffers_are_read(text):
    assert buffers_bytes(text) is not None
