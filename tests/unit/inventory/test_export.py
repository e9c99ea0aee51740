# SPDX-License-Identifier: Apache-2.0
"""A cluster that others made as an inventory: what is kept, what is told, and that preflight takes it."""

from __future__ import annotations

import ast
import copy
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible_collections.holdfast.persistence.plugins.action.export_inventory import dump, refuse_other_content
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory import (
    balancer,
    configuration,
    document,
    hba,
    secrets,
    settings,
)
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.model import Host, Plan
from ansible_collections.holdfast.persistence.plugins.module_utils.inventory.plan import plan
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import judge
from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal
from ansible_collections.holdfast.persistence.plugins.plugin_utils.roles import RoleFiles
from ansible_collections.holdfast.persistence.plugins.plugin_utils.templates import plain
from hypothesis import given
from hypothesis import strategies as st

from ..preflight.test_inventories import read as read_inventories

ROOT = Path(__file__).resolve().parents[3]
SECRET = "hunter2hunter2"
read = read_inventories

CONFIG: dict[str, Any] = {
    "scope": "shop",
    "namespace": "/service/",
    "restapi": {"listen": "0.0.0.0:8008", "connect_address": "192.0.2.11:8010"},
    "etcd3": {"hosts": "192.0.2.11:2479,192.0.2.12:2479"},
    "postgresql": {
        "data_dir": "/srv/pgdata",
        "authentication": {"superuser": {"username": "postgres"}, "replication": {"username": "standby"}},
        "parameters": {"unix_socket_directories": "/tmp"},
    },
    "tags": {"nofailover": False, "clonefrom": True},
    "watchdog": {"mode": "off"},
}
DYNAMIC: dict[str, Any] = {
    "ttl": 30,
    "loop_wait": 10,
    "retry_timeout": 10,
    "maximum_lag_on_failover": 1048576,
    "postgresql": {
        "use_pg_rewind": True,
        "parameters": {
            "max_connections": 500,
            "shared_buffers": "4GB",
            "archive_command": "wal-g wal-push %p",
            "jit": "off",
        },
        "pg_hba": [
            "local all all trust",
            "host replication standby 192.0.2.0/24 md5",
            "host all all 0.0.0.0/0 md5",
            "hostssl metrics grafana 192.0.2.50/32 scram-sha-256",
            'host all ldapper 192.0.2.0/24 ldap ldapbindpasswd="hunter2hunter2"',
        ],
    },
}


def user(name: str, **more: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("super", "createrole", "createdb", "replication", "bypassrls"), False)
    rest = {
        "inherit": True,
        "login": True,
        "limit": -1,
        "expires": "",
        "password": "scram",
        "member_of": [],
        "settings": [],
    }
    return {"name": name, **flags, **rest, **more}


POSTGRESQL: dict[str, Any] = {
    "version": 17,
    "replica": False,
    "settings": {
        "max_connections": {"value": "500", "source": "command line", "file": None},
        "max_wal_size": {"value": "1GB", "source": "configuration file", "file": "/srv/pgdata/postgresql.base.conf"},
        "max_wal_senders": {"value": "30", "source": "command line", "file": None},
        "work_mem": {"value": "16MB", "source": "configuration file", "file": "/srv/pgdata/postgresql.auto.conf"},
    },
    "hba": [],
    "users": [
        user("postgres", super=True),
        user("standby", replication=True),
        user("shop", password="md5"),
        user("staff", login=False, password="none"),
    ],
    "databases": [
        {"name": name, "owner": owner, "extensions": [], "schemas": [], "settings": {"values": [], "hidden": []}}
        for name, owner in (("postgres", "postgres"), ("shop", "shop"))
    ],
}
PGBOUNCER = f"""[databases]
shop = host=127.0.0.1 port=5000 dbname=shop
shop_reports = host=127.0.0.1 port=5001 dbname=shop pool_size=5 password={SECRET}
* = host=127.0.0.1 port=5000
[pgbouncer]
listen_addr = *
listen_port = 6433
auth_type = md5
auth_file = /etc/pgbouncer/userlist.txt
max_client_conn = 2000
pool_mode = transaction
"""
HAPROXY = f"""global
    maxconn 1000
defaults
    mode tcp
listen primary
    bind *:5000
    option httpchk OPTIONS /primary
    server db1 192.0.2.11:5432 check port 8008
listen replicas
    bind *:5001
    option httpchk
    http-check send meth OPTIONS uri /replica?lag=1MB
    server db1 192.0.2.11:5432 check port 8008
listen stats
    bind *:7000
    stats auth admin:{SECRET}
"""
KEEPALIVED = f"""vrrp_instance one {{
  interface eth0
  virtual_router_id 77
  authentication {{ auth_type PASS
    auth_pass {SECRET} }}
  virtual_ipaddress {{
    192.0.2.10/24 dev eth0
  }}
}}
"""
IDS = [f"{number:040x}" for number in range(1, 7)]


def valkey(number: int, hosts: int = 3) -> list[dict[str, Any]]:
    """Return two servers without TLS of a host: a primary, and a replica of the next host's primary."""
    lines = []
    shares = ("0-5460", "5461-10922", "10923-16383")
    for index in range(hosts):
        address = f"192.0.2.{index + 11}"
        lines.append([IDS[index], f"{address}:7001@17001", "master", "-", shares[index]])
        lines.append([IDS[index + 3], f"{address}:7002@17002", "slave", IDS[(index + 1) % hosts], ""])

    def nodes(own: str) -> str:
        return "\n".join(
            f"{node} {where} {'myself,' if node == own else ''}{role} {primary} 0 0 1 connected {slots}".strip()
            for node, where, role, primary, slots in lines
        )

    users = [
        {"name": "default", "enabled": True, "nopass": False, "passwords": 1, "rules": "~* &* +@all"},
        {
            "name": "cart",
            "enabled": True,
            "nopass": False,
            "passwords": 2,
            "rules": "~cart:* resetchannels -@all +@read +@write",
        },
    ]
    return [
        {
            "port": port,
            "program": "redis-server",
            "version": "7.2.4",
            "cluster_enabled": True,
            "declared": {"port": str(port), "dir": f"/var/lib/redis/{port}", "maxmemory": "2gb", "hz": "20"},
            "live": {
                "port": str(port),
                "dir": f"/var/lib/redis/{port}",
                "maxmemory": "2147483648",
                "hz": "20",
                "cluster-node-timeout": "15000",
            },
            "nodes": nodes(node),
            "users": users,
            "declared_users": [],
            "error": "",
        }
        for port, node in ((7001, IDS[number]), (7002, IDS[number + 3]))
    ]


def foreign() -> list[Host]:
    """Return three hosts of a cluster that others made."""
    hosts = []
    for number in range(3):
        address = f"192.0.2.{number + 11}"
        config = copy.deepcopy(CONFIG)
        config["name"] = f"pg{number + 1}"
        config["postgresql"]["connect_address"] = f"{address}:5432"
        members = [{"name": f"pg{each}", "role": "replica", "state": "streaming"} for each in (1, 2, 3)]
        facts = {
            "patroni": {
                "path": "/etc/patroni.yml",
                "own": False,
                "config": config,
                "dynamic": DYNAMIC,
                "members": members,
                "hidden": [],
                "error": "",
            },
            "postgresql": {**POSTGRESQL, "replica": number != 1},
            "postgresql_error": "",
            "etcd": True,
            "backup": False,
            "pgbouncer": configuration.pgbouncer(PGBOUNCER),
            "haproxy": configuration.haproxy(HAPROXY),
            "keepalived": configuration.keepalived(KEEPALIVED),
            "valkey": valkey(number),
        }
        reached = {"ansible_host": address, "ansible_user": "root"}
        hosts.append(Host(f"host{number + 1}", facts, 32000, 4, "trixie", (address,), reached))
    return hosts


@pytest.fixture(scope="module")
def roles() -> RoleFiles:
    return RoleFiles(DataLoader())


@pytest.fixture(scope="module")
def made(roles: RoleFiles) -> Plan:
    return plan(foreign(), plain(roles.defaults), plain(roles.fixed))


def texts(found: Plan, kind: str) -> str:
    return "\n".join(note.text for note in found.notes if note.kind == kind)


def test_hosts_are_called_as_patroni_calls_its_members(made: Plan) -> None:
    assert sorted(made.hosts) == ["pg1", "pg2", "pg3"]
    assert made.hosts["pg1"]["ansible_host"] == "192.0.2.11"
    assert made.groups == dict.fromkeys(("etcd", "postgresql", "balancer", "valkey"), ("pg1", "pg2", "pg3"))
    assert made.variables["cluster"] == {
        "ansible_user": "root",
        "cluster_name": "shop",
        "cluster_port_etcd_client": 2479,
        "cluster_port_patroni": 8010,
        "cluster_client_certificates": False,
        "cluster_port_pgbouncer": 6433,
        "cluster_vip": "192.0.2.10",
    }


def test_what_the_cluster_is_set_to_is_kept(made: Plan) -> None:
    found = made.variables["postgresql"]
    assert found["patroni_timing"] == "standard"
    # Patroni's own defaults are no fewer of the cluster's than what stands in its configuration.
    assert found["patroni_dynamic_config"] == {"primary_start_timeout": 300}
    assert (found["patroni_synchronous_mode"], found["patroni_failsafe_mode"]) == ("asynchronous", False)
    assert found["patroni_max_connections"] == 500
    assert found["patroni_parameters"] == {"jit": "off", "max_wal_senders": 30}
    assert found["patroni_host_parameters"] == {"shared_buffers": "4GB"}
    assert found["patroni_data_dir"] == "/srv/pgdata"
    assert found["patroni_users"] == [{"name": "shop"}, {"name": "staff", "flags": ["NOLOGIN"]}]
    assert found["patroni_databases"] == [{"name": "shop", "owner": "shop"}]
    assert found["patroni_application_networks"] == ["0.0.0.0/0"]
    assert found["patroni_hba"] == ["hostssl metrics grafana 192.0.2.50/32 scram-sha-256"]
    assert all(made.hosts[name]["patroni_tags"] == {"clonefrom": True} for name in made.hosts)


def test_a_value_by_alter_system_is_told_of(made: Plan) -> None:
    assert "ALTER SYSTEM RESET work_mem" in texts(made, "decide")


def test_pools_and_routes_are_kept(made: Plan) -> None:
    found = made.variables["balancer"]
    assert found["pgbouncer_databases"] == [
        {"name": "shop_reports", "database": "shop", "target": "read_only", "pool_size": 5}
    ]
    assert found["pgbouncer_max_client_connections"] == 2000
    assert found["pgbouncer_max_database_connections"] == 0
    assert found["haproxy_max_connections"] == 1000
    assert found["haproxy_read_only_max_lag"] == "1MB"
    assert found["haproxy_vip_router_id"] == 77


def test_valkey_is_kept(made: Plan) -> None:
    found = made.variables["valkey"]
    assert found["valkey_instances"] == [{"port": 7001, "maxmemory": "2gb"}, {"port": 7002, "maxmemory": "2gb"}]
    assert found["valkey_node_timeout"] == 15000
    assert found["valkey_settings"] == {"hz": "20"}
    assert found["valkey_users"] == [{"name": "cart", "rules": "~cart:* resetchannels -@all +@read +@write"}]
    told = texts(made, "decide")
    assert "this is Redis" in told
    assert "without TLS" in told
    assert "clients log in as the user default" in told
    assert "all but the newest" in texts(made, "secret")


def test_what_has_no_place_is_told_of(made: Plan) -> None:
    lost, decide, secret = (texts(made, kind) for kind in ("lost", "decide", "secret"))
    # The network has the members themselves, whose lines the role writes.
    assert "patroni_replication_networks" not in made.variables["postgresql"]
    assert "no variable changes" not in lost
    assert "archive_command is the cluster's own" in decide
    assert "carries a password" in secret
    assert "postgresql_user_shop in cluster_secrets_dir" in secret
    assert "max_wal_size 1GB -> 2GB" in decide


def test_no_secret_is_written(made: Plan) -> None:
    assert [name for name, text in document.files(made, dump).items() if SECRET in text] == []


def write(made: Plan, folder: Path) -> dict[str, str]:
    files = document.files(made, dump)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return files


def test_preflight_takes_what_was_written(read, made: Plan, tmp_path: Path) -> None:
    write(made, tmp_path)
    verdict = judge.judge(read(tmp_path))
    # A backup is what the cluster lacked, and the pools of three hosts together were more than PostgreSQL takes.
    assert judge.render([problem for problem in verdict.problems if problem.rule != "pool_size"]) == ""
    inventory = read(tmp_path)
    assert sorted(host.name for host in inventory.hosts) == ["pg1", "pg2", "pg3"]
    assert inventory.hosts[0].value("patroni_max_connections") == 500


def test_every_variable_is_one_of_a_role_or_of_ansible(made: Plan, roles: RoleFiles) -> None:
    names = {name for values in [*made.variables.values(), *made.hosts.values()] for name in values}
    assert [
        name
        for name in sorted(names)
        if name not in roles.defaults and not name.startswith("ansible_") and name != "zone"
    ] == []


def test_every_note_names_a_place_and_stands_in_the_files(made: Plan, tmp_path: Path) -> None:
    files = write(made, tmp_path)
    readme = files["README.md"]
    assert [note for note in made.notes if note.text not in readme] == []
    flat = " ".join(re.sub(r"^# ?", "", text, flags=re.MULTILINE).replace("\n", " ") for text in files.values())
    assert [note.text for note in made.notes if note.text not in flat] == []
    assert all(yaml.safe_load(text) for name, text in files.items() if name.endswith(".yml") and name != "README.md")


# ---- what is refused


def test_members_without_a_host_are_refused(roles: RoleFiles) -> None:
    with pytest.raises(Refusal, match="members that were not looked at: pg3; found were pg1, pg2"):
        plan(foreign()[:2], plain(roles.defaults), plain(roles.fixed))


def test_two_clusters_are_refused(roles: RoleFiles) -> None:
    hosts = foreign()
    hosts[2].facts["patroni"]["config"]["scope"] = "other"
    with pytest.raises(Refusal, match=r"several clusters of Patroni: shop \(pg1\), shop \(pg2\), other \(pg3\)"):
        plan(hosts, plain(roles.defaults), plain(roles.fixed))


def test_one_name_for_two_hosts_is_refused(roles: RoleFiles) -> None:
    hosts = foreign()
    hosts[2].facts["patroni"]["config"]["name"] = "pg1"
    with pytest.raises(Refusal, match="host1, host3 have one name, pg1"):
        plan(hosts, plain(roles.defaults), plain(roles.fixed))


def test_hosts_without_a_cluster_are_refused(roles: RoleFiles) -> None:
    with pytest.raises(Refusal, match="neither Patroni nor a Valkey cluster runs on a, b"):
        plan([Host("a", {}), Host("b", {})], plain(roles.defaults), plain(roles.fixed))
    with pytest.raises(Refusal, match=r"adopt\.yml takes such a server"):
        plan([Host("a", {"postgresql": {"version": 17}})], plain(roles.defaults), plain(roles.fixed))


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    files = {"hosts.yml": "one\n"}
    refuse_other_content(str(tmp_path / "new"), files, overwrite=False)
    refuse_other_content(str(tmp_path), files, overwrite=False)
    (tmp_path / "hosts.yml").write_text("one\n")
    refuse_other_content(str(tmp_path), files, overwrite=False)
    (tmp_path / "hosts.yml").write_text("another\n")
    with pytest.raises(Refusal, match=r"hosts\.yml would change"):
        refuse_other_content(str(tmp_path), files, overwrite=False)
    refuse_other_content(str(tmp_path), files, overwrite=True)
    with pytest.raises(Refusal, match="is a file"):
        refuse_other_content(str(tmp_path / "hosts.yml"), files, overwrite=True)


# ---- single decisions


def test_a_store_that_is_not_etcd_is_told_of(roles: RoleFiles) -> None:
    hosts = foreign()
    for host in hosts:
        del host.facts["patroni"]["config"]["etcd3"]
        host.facts["patroni"]["config"]["consul"] = {"host": "127.0.0.1:8500"}
        host.facts["etcd"] = False
    found = plan(hosts, plain(roles.defaults), plain(roles.fixed))
    assert "etcd" not in found.groups
    assert "the cluster's state is in consul" in texts(found, "decide")


@pytest.mark.parametrize(
    ("timings", "profile", "extra"),
    [
        ((20, 5, 5), "fast", {}),
        ((30, 10, 10), "standard", {}),
        ((60, 10, 20), "patient", {"primary_start_timeout": 0}),
        ((40, 10, 15), "standard", {"ttl": 40, "retry_timeout": 15}),
        ((55, 10, 20), "patient", {"ttl": 55, "primary_start_timeout": 0}),
        # Patroni replaces these itself.
        ((10, 1, 3), "fast", {}),
    ],
)
def test_timings_get_the_nearest_profile(
    roles: RoleFiles, timings: tuple[int, int, int], profile: str, extra: dict[str, int]
) -> None:
    dynamic = {**dict(zip(settings.TIMINGS, timings, strict=False)), "primary_start_timeout": 0}
    found = settings.patroni_variables(dynamic, plain(roles.defaults), plain(roles.fixed)["cluster_timings"]).variables
    assert found.get("patroni_timing", "fast") == profile
    assert found.get("patroni_dynamic_config", {}) == extra


@given(memory=st.integers(256, 1 << 20), connections=st.integers(10, 5000))
def test_memory_is_computed_as_the_role_computes(memory: int, connections: int) -> None:
    """The role's formulas, evaluated as Python, give what the export compares with."""
    text = yaml.safe_load((ROOT / "roles/patroni/vars/main.yml").read_text())
    for name, formula in text["__patroni_memory_parameters"].items():
        expression = formula.removesuffix("MB").strip("{} ")
        expression = re.sub(r"\[(\[.*?\] \| max), (\d+)\] \| min", r"min(\1, \2)", expression)
        expression = re.sub(r"\[(.*)\] \| max", r"max(\1)", expression)
        expression = expression.replace("(patroni_max_connections | int)", str(connections)).replace(
            "__patroni_memory", str(memory)
        )
        assert settings.memory_settings(memory, connections)[name] == f"{_evaluate(expression)}MB"


def _evaluate(expression: str) -> int:
    tree = ast.parse(expression, mode="eval")
    return int(eval(compile(tree, "formula", "eval"), {"__builtins__": {}, "min": min, "max": max}))


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("password", True),
        ("requirepass", True),
        ("primaryauth", True),
        ("app.jwt_secret", True),
        ("anon.salt", True),
        ("primary_conninfo", True),
        ("tls-key-file-pass", True),
        ("api_key", True),
        ("password_encryption", False),
        ("ssl_key_file", False),
        ("tls-key-file", False),
        ("max_connections", False),
        ("bypassrls", False),
        ("keepalive", False),
        ("auth_query", False),
        ("tcp_keepalives_idle", False),
        ("passfile", False),
    ],
)
def test_secrets_are_known_by_their_names(name: str, secret: bool) -> None:
    assert secrets.is_secret(name) is secret


@given(st.text(min_size=1).filter(str.strip))
def test_a_secret_never_passes(word: str) -> None:
    config = {
        "a": [{"password": word}],
        "b": {"postgresql": {"authentication": {"superuser": {"password": word, "username": "u"}}}},
    }
    clean, hidden = secrets.without(config)
    assert clean == {"a": [{}], "b": {"postgresql": {"authentication": {"superuser": {"username": "u"}}}}}
    assert hidden == ["a[0].password", "b.postgresql.authentication.superuser.password"]


def test_a_url_with_a_password_is_a_secret() -> None:
    assert secrets.without({"a": "https://user:word@192.0.2.1/x", "b": "https://192.0.2.1/x"}) == (
        {"b": "https://192.0.2.1/x"},
        ["a"],
    )


@given(st.lists(st.text(alphabet="abc :\"'#=[]{}/0123456789\n", max_size=60)))
def test_no_file_stops_the_reading(lines: list[str]) -> None:
    text = "\n".join(lines)
    for parse in (configuration.pgbouncer, configuration.haproxy, configuration.keepalived):
        assert isinstance(parse(f"[databases]\n{text}\n[pgbouncer]\n{text}\nlisten x\n  bind *:1\n{text}"), dict)
    assert isinstance(configuration.acl_users(lines), list)
    hba.plan(lines, ["192.0.2.1"], [], [])


def test_rules_mean_the_same_in_any_order() -> None:
    assert configuration.rules_key("~* &* +@all -@admin") == configuration.rules_key("&* ~* -@all +@all -@admin")
    assert configuration.rules_key("allkeys +get") == configuration.rules_key("~* +get")
    assert configuration.rules_key("~* +@all -get") != configuration.rules_key("~* -get +@all")


def test_a_role_that_differs_from_pgbouncers_own_default_is_written(roles: RoleFiles) -> None:
    host = Host("a", {"pgbouncer": configuration.pgbouncer("[databases]\n[pgbouncer]\nlisten_port = 6432\n")})
    found = balancer.plan({"a": host}, [], plain(roles.defaults)).variables
    assert found["pgbouncer_pool_mode"] == "session"
    assert found["pgbouncer_max_client_connections"] == 100
    assert "pgbouncer_default_pool_size" not in found
