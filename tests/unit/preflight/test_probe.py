# SPDX-License-Identifier: Apache-2.0
"""Reading of what Linux and the services' files say, and the module's own look at a file tree."""

from __future__ import annotations

import pathlib
import socket
import struct
import sys

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import parse
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import Probe
from ansible_collections.holdfast.persistence.plugins.modules import host_probe

TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0B0200C0:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000   104        0 1145 1 0 100 0 0 10 0
   1: 0B0200C0:83FC 507100CB:0050 01 00000000:00000000 03:000006A9 00000000     0        0 1146 3 0
"""
TCP6 = """  sl  local_address   remote_address   st tx_queue rx_queue tr tm->when
   0: B80D0120000000000000000001000000:1F48 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 77 1 0 100 0 0 10 0
"""


def test_only_listening_sockets_count():
    assert list(parse.listening(TCP)) == [(5432, "192.0.2.11", 1145)]
    assert list(parse.listening(TCP6)) == [(8008, "2001:db8::1", 77)]


@pytest.mark.parametrize(
    ("text", "codename"),
    [
        ('PRETTY_NAME="Debian GNU/Linux 13 (trixie)"\nID=debian\nVERSION_CODENAME=trixie\n', "trixie"),
        ('PRETTY_NAME="Debian GNU/Linux forky/sid"\nID=debian\n', "forky"),
        ("", ""),
    ],
)
def test_releases(text, codename):
    assert parse.os_release(text)["codename"] == codename


def test_shell_assignments():
    text = '# ETCD_NAME=no\nETCD_NAME=\'node1\'\n  ETCD_DATA_DIR="/var/lib/etcd/x" # yes\nbroken="\nnot a name=1\n'
    assert parse.environment(text) == {"ETCD_NAME": "node1", "ETCD_DATA_DIR": "/var/lib/etcd/x", "broken": '"'}


@pytest.mark.parametrize(
    ("limit", "size"), [("", 7812), ("max\n", 7812), ("1073741824\n", 1024), ("9223372036854771712", 7812)]
)
def test_memory_is_the_lower_of_machine_and_control_group(limit, size):
    assert parse.memory_mib("MemTotal:        8000000 kB\nMemFree: 1 kB\n", limit) == size


def test_patroni_without_a_yaml_parser():
    text = "scope: orders\nname: node1\npostgresql:\n  data_dir: '/var/lib/postgresql/17/orders'  # ours\n"
    assert parse.patroni(text) == {"scope": "orders", "data_dir": "/var/lib/postgresql/17/orders"}
    assert parse.patroni("") == {"scope": "", "data_dir": ""}


def test_valkey_configuration():
    assert parse.valkey('port 7001\ncluster-enabled yes\ndir "/var/lib/valkey/7001"\n') == {
        "dir": "/var/lib/valkey/7001",
        "cluster": True,
    }


def message(kind: int, body: bytes) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 1, 0) + body


def attribute(kind: int, value: bytes) -> bytes:
    return (struct.pack("=HH", 4 + len(value), kind) + value).ljust((4 + len(value) + 3) & ~3, b"\0")


def test_interface_addresses():
    first = message(
        20,
        struct.pack("=BBBBI", socket.AF_INET, 24, 0, 0, 7)
        + attribute(3, b"eth0\0")
        + attribute(2, bytes([192, 0, 2, 11])),
    )
    peer = message(20, struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 8) + attribute(1, bytes([192, 0, 2, 99])))
    assert parse.interface_addresses(first + peer) == ([(7, "192.0.2.11", 24), (8, "192.0.2.99", 32)], False)
    assert parse.interface_addresses(message(3, b"\0" * 4)) == ([], True)


@pytest.fixture
def tree(tmp_path):
    """A host's files: our PostgreSQL, our etcd member, a Valkey instance in cluster mode and one of somebody else."""
    files = {
        "etc/patroni/config.yml": b"scope: orders\npostgresql:\n  data_dir: /x\n",
        "etc/default/etcd": f"ETCD_DATA_DIR={tmp_path}/etcd/orders\n".encode(),
        "etc/default/etcd-bootstrap": b"ETCD_INITIAL_CLUSTER_TOKEN=orders\n",
        "etc/valkey/valkey-7001.conf": f"cluster-enabled yes\ndir {tmp_path}/valkey/7001\n".encode(),
        "postgresql/17/orders/PG_VERSION": b"17\n",
        "postgresql/17/orders/global/pg_control": struct.pack("=Q", 7574563210987654321) + b"\0" * 100,
        "etcd/orders/member/snap/db": b"x",
        "valkey/7001/nodes.conf": b"x",
        "valkey/7002/dump.rdb": b"x",
    }
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "postgresql/17/spare").mkdir()
    (tmp_path / "etcd/other").mkdir()
    return tmp_path


@pytest.fixture
def parameters(tree):
    """Options that point the module at the tree."""
    return {
        "paths": [f"{tree}/postgresql/none/yet", "/"],
        "postgresql_root": f"{tree}/postgresql",
        "postgresql_data_dirs": [f"{tree}/etcd", f"{tree}/none"],
        "etcd_data_dirs": [f"{tree}/valkey"],
        "etcd_root": f"{tree}/etcd",
        "valkey_root": f"{tree}/valkey",
        "etc": f"{tree}/etc",
        "tls_dir": f"{tree}/etc/ssl/holdfast",
        "initdb": [{"locale": "xx_XX.UTF-8"}],
    }


def alone(path):
    """What is said of a directory that is neither linked nor mounted and has no WAL."""
    return {"real": path, "mount": False, "wal": ""}


def test_a_link_and_the_place_of_wal_are_seen(tree):
    data = pathlib.Path(tree) / "postgresql/17/orders"
    (pathlib.Path(tree) / "disk/orders").mkdir(parents=True)
    (data / "pg_wal").symlink_to(pathlib.Path(tree) / "disk/orders")
    link = pathlib.Path(tree) / "link"
    link.symlink_to(data)
    (found,) = host_probe.postgresql_dirs(f"{tree}/none", [str(link)])
    assert (found["real"], found["wal"]) == (str(data), f"{tree}/disk/orders")


def test_data_directories_are_told_apart(tree, parameters):
    seen = host_probe.probe(parameters)
    assert seen["postgresql_dirs"] == [
        {
            "path": f"{tree}/postgresql/17/orders",
            "version": "17",
            "system_identifier": "7574563210987654321",
            "empty": False,
            **alone(f"{tree}/postgresql/17/orders"),
        },
        {
            "path": f"{tree}/postgresql/17/spare",
            "version": "",
            "system_identifier": "",
            "empty": True,
            **alone(f"{tree}/postgresql/17/spare"),
        },
        {"path": f"{tree}/etcd", "version": "", "system_identifier": "", "empty": False, **alone(f"{tree}/etcd")},
    ]
    assert [tuple(item.values()) for item in seen["etcd_dirs"]] == [
        (f"{tree}/etcd/orders", True, True, "orders"),
        (f"{tree}/etcd/other", False, False, ""),
        (f"{tree}/valkey", False, False, ""),
    ]
    assert [tuple(item.values()) for item in seen["valkey_dirs"]] == [
        (f"{tree}/valkey/7001", True, True, "cluster"),
        (f"{tree}/valkey/7002", True, False, ""),
    ]
    assert seen["patroni"] == {"scope": "orders", "data_dir": "/x", "real_dir": "/x"}


def test_this_machine_is_seen(parameters):
    seen = host_probe.probe(parameters)
    assert seen["memory_mib"] > 0
    assert seen["cpus"] > 0
    assert seen["python"] == ".".join(map(str, sys.version_info[:3]))
    assert [item["path"] for item in seen["filesystems"]] == [
        path for key in ("paths", "postgresql_data_dirs", "etcd_data_dirs") for path in parameters[key]
    ]
    assert all(item["size_mib"] > 0 for item in seen["filesystems"])


def test_a_listener_is_found_with_its_process():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (found,) = (item for item in host_probe.listeners() if item["port"] == port)
    own = pathlib.Path("/proc/self/comm").read_text(encoding="utf-8").strip()
    assert (found["address"], found["process"], found["directory"]) == ("127.0.0.1", own, str(pathlib.Path.cwd()))


def test_a_result_becomes_a_probe(tree, parameters):
    result = {**host_probe.probe(parameters), "time": {"synchronized": None}, "clock": {"low": -0.5, "high": 0.25}}
    (tree / "etc/holdfast").mkdir(parents=True)
    (tree / "etc/holdfast/secrets").write_text("etcd_root\nnotes\n")
    result["secrets"] = host_probe.probe(parameters)["secrets"]
    probe = Probe.from_result(result)
    assert probe.secrets == {"etcd_root", "notes"}
    assert probe.clock == (-0.5, 0.25)
    assert probe.patroni_scope == "orders"
    assert Probe.from_result({**result, "clock": None}).clock is None


def test_debians_own_etcd_directory_counts_as_configured(tmp_path):
    (tmp_path / "etcd/default/member/wal").mkdir(parents=True)
    (found,) = host_probe.etcd_dirs(f"{tmp_path}/etcd", [], f"{tmp_path}/etc")
    assert (found["populated"], found["configured"], found["owner"]) == (True, True, "")


def test_locales_of_initdb_are_those_of_the_c_library():
    options = ["data-checksums", {"encoding": "UTF8"}, {"locale": "C.UTF-8"}, {"lc-collate": "de_DE.UTF-8"}]
    assert parse.locales([*options, {"icu-locale": "und"}, {"lc_ctype": "C.UTF-8"}]) == ["C.UTF-8", "de_DE.UTF-8"]
    assert parse.locales("C.UTF-8") == parse.locales(None) == []


def test_a_locale_is_asked_of_the_c_library_and_nothing_is_left_set():
    before = host_probe.locale.setlocale(host_probe.locale.LC_ALL)
    assert host_probe.missing_locales(["C.UTF-8", "C", "xx_XX.UTF-8"]) == ["xx_XX.UTF-8"]
    assert host_probe.locale.setlocale(host_probe.locale.LC_ALL) == before
