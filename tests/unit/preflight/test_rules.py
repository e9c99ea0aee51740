# SPDX-License-Identifier: Apache-2.0
"""Each rule of the preflight: one planted violation, and the sound neighbour that must pass."""

from __future__ import annotations

import pytest
from ansible_collections.holdfast.persistence.plugins.module_utils.apt.availability import Unavailable
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight import judge
from ansible_collections.holdfast.persistence.plugins.module_utils.preflight.model import (
    Filesystem,
    Interface,
    Listener,
    PostgresqlDir,
    Problem,
    ServiceDir,
)

THREE = ("node1", "node2", "node3")


def test_a_sound_inventory_passes(sample):
    verdict = sample.verdict()
    assert (verdict.problems, verdict.warnings) == ((), ())


class TestGroups:
    @pytest.mark.parametrize("members", [(), ("node1", "node2"), ("node1", "node2", "node3", "node4")])
    def test_even_or_no_etcd_is_refused(self, sample, members):
        broken = sample.groups(all=(*THREE, "node4"), etcd=members, postgresql=(*THREE, "node4"))
        assert broken.only("etcd_members").found == f"{len(members)} members"

    def test_one_etcd_member_can_be_accepted_without_accepting_an_even_number(self, sample):
        single = sample.groups(etcd=("node1",))
        assert single.rules() == ["etcd_single"]
        assert single.rules("etcd_single") == []
        assert sample.groups(etcd=("node1", "node2")).rules("etcd_single") == ["etcd_members"]

    def test_valkey_alone_needs_no_etcd(self, sample):
        assert sample.groups(etcd=(), postgresql=(), balancer=()).rules() == []

    @pytest.mark.parametrize(
        ("name", "meant"),
        [
            ("postgres", "postgresql"),
            ("haproxy", "balancer"),
            ("redis", "valkey"),
            ("ectd", "etcd"),
            ("balancers", "balancer"),
        ],
    )
    def test_a_group_almost_like_ours_is_refused_with_the_name_that_was_meant(self, sample, name, meant):
        problem = sample.groups(**{meant: (), name: THREE}).only("unknown_group")
        assert problem.subject == f"group {name}"
        assert meant in problem.remedy

    def test_parents_children_and_racks_are_welcome(self, sample):
        views = {
            "all_db": THREE,
            "postgresql_dc1": ("node1",),
            "postgres": THREE,
            "rack_a": ("node1", "node2"),
            "empty": (),
        }
        assert sample.groups(**views).rules() == []

    def test_a_group_with_strangers_is_refused_until_it_is_listed(self, sample):
        with_strangers = sample.groups(all=(*THREE, "web1"), webservers=("web1", "node1"))
        assert "web1" in with_strangers.only("unknown_group").found
        assert with_strangers.options(extra_groups=frozenset({"webservers"})).rules() == []

    def test_a_host_in_no_group_is_mentioned(self, sample):
        verdict = sample.groups(all=(*THREE, "spare"), ungrouped=("spare",)).verdict()
        assert verdict.problems == ()
        assert [(item.rule, item.hosts) for item in verdict.warnings] == [("host_without_role", ("spare",))]

    def test_nothing_to_do_is_refused(self, sample):
        assert sample.groups(etcd=(), postgresql=(), balancer=(), valkey=()).rules() == ["empty_inventory"]

    def test_balancers_need_postgresql(self, sample):
        assert sample.groups(postgresql=()).rules() == ["group_needs"]

    def test_a_single_postgresql_is_a_warning(self, sample):
        verdict = sample.groups(postgresql=("node1",)).verdict()
        assert ([item.rule for item in verdict.warnings], verdict.problems) == (["postgresql_single"], ())


class TestNetwork:
    def test_duplicate_addresses(self, sample):
        problem = sample.variables("node2", cluster_address="192.0.2.11").probe(interfaces=()).only("address_duplicate")
        assert problem.hosts == ("node1", "node2")
        assert "192.0.2.11" in problem.found

    def test_addresses_are_compared_as_addresses(self, sample):
        broken = sample.variables("node1", cluster_address="2001:db8::1").variables(
            "node2", cluster_address="2001:DB8:0::1"
        )
        assert "address_duplicate" in broken.probe(interfaces=()).rules()

    @pytest.mark.parametrize("address", ["db1.example.org", "192.0.2.300", "192.0.2.11/24"])
    def test_an_address_that_is_no_ip(self, sample, address):
        assert sample.variables("node1", cluster_address=address).only("address_not_ip").hosts == ("node1",)

    def test_a_loopback_address(self, sample):
        assert sample.variables("node1", cluster_address="127.0.0.1").rules() == ["address_loopback"]

    def test_an_address_that_the_host_does_not_have(self, sample):
        problem = sample.variables("node1", cluster_address="192.0.2.99").only("address_not_on_host")
        assert "192.0.2.11" in problem.found

    @pytest.mark.parametrize(
        ("vip", "rule"),
        [
            ("192.0.2.300", "vip_not_ip"),
            ("192.0.2.12", "vip_is_host"),
            ("198.51.100.9", "vip_network"),
            ("192.0.2.255", "vip_network"),
            ("192.0.2.0", "vip_network"),
        ],
    )
    def test_a_bad_virtual_address(self, sample, vip, rule):
        assert sample.variables(cluster_vip=vip).only(rule).subject == "cluster_vip"

    def test_a_good_virtual_address(self, sample):
        assert sample.variables(cluster_vip="192.0.2.100").rules() == []

    def test_the_interface_decides_about_the_network(self, sample):
        small = sample.variables(cluster_vip="192.0.2.100")
        for number, host in enumerate(THREE, start=11):
            small = small.probe(host, interfaces=(Interface("eth0", f"192.0.2.{number}", 26),))
        assert "outside 192.0.2.0/26" in small.only("vip_network").found

    def test_without_a_probe_the_declared_prefix_decides(self, sample):
        broken = sample.variables(cluster_vip="192.0.2.100", cluster_vip_prefix=26)
        for host in THREE:
            broken = broken.host(host, probe=None)
        assert broken.rules() == ["vip_network"]

    def test_a_virtual_address_without_balancers(self, sample):
        assert sample.groups(balancer=()).variables(cluster_vip="192.0.2.100").rules() == ["vip_without_balancer"]

    def test_two_instances_on_one_port(self, sample):
        problem = sample.variables(valkey_instances=[{"port": 7001}, {"port": 7001}]).only("port_clash")
        assert problem.found == "2 times Valkey instance 7001"
        assert problem.hosts == THREE

    @pytest.mark.parametrize(
        ("ports", "clash"),
        [((7001, 17001), 17001), ((7000, 7001), 7000), ((5432, 7001), 5432), ((2379, 7001), 2379)],
    )
    def test_an_instance_on_the_port_of_another_service(self, sample, ports, clash):
        problem = sample.variables(valkey_instances=[{"port": port} for port in ports]).only("port_clash")
        assert problem.subject == f"port {clash}"

    def test_the_same_port_is_fine_where_the_other_service_is_elsewhere(self, sample):
        apart = sample.groups(all=(*THREE, "c1", "c2", "c3"), valkey=("c1", "c2", "c3")).variables(
            valkey_instances=[{"port": 7000}, {"port": 7001}]
        )
        assert apart.rules() == []

    @pytest.mark.parametrize("port", [80, 55536, 65535])
    def test_a_port_that_valkey_cannot_use(self, sample, port):
        broken = sample.variables(valkey_instances=[{"port": 7001}, {"port": port}])
        assert str(port) in broken.only("port_range").found

    def test_a_stranger_on_our_port(self, sample):
        taken = sample.probe("node2", listeners=(Listener(7001, "0.0.0.0", "redis-server", "/"),))
        problem = taken.only("port_taken")
        assert (problem.hosts, problem.subject) == (("node2",), "port 7001")
        assert "redis-server" in problem.found

    def test_our_own_services_may_listen(self, sample):
        ours = tuple(
            Listener(port, "0.0.0.0", process, "/")
            for port, process in [
                (2379, "etcd"),
                (8008, "patroni"),
                (6432, "pgbouncer"),
                (5000, "haproxy"),
                (17001, "valkey-server"),
            ]
        )
        assert sample.probe(listeners=ours).rules() == []

    def test_a_foreign_postgresql_on_our_port(self, sample):
        directory = "/var/lib/postgresql/17/main"
        taken = sample.probe("node1", listeners=(Listener(5432, "::", "postgres", directory),))
        assert directory in taken.only("port_taken").found
        ours = sample.probe(
            "node1",
            listeners=(Listener(5432, "::", "postgres", "/var/lib/postgresql/17/orders"),),
            patroni_real_dir="/var/lib/postgresql/17/orders",
        )
        assert ours.rules() == []

    def test_another_address_of_the_host_does_not_count(self, sample):
        assert sample.probe(listeners=(Listener(5432, "198.51.100.7", "postgres", "/srv/pg"),)).rules() == []


class TestValkey:
    def test_fewer_than_three_primaries(self, sample):
        problem = sample.variables(valkey_instances=[{"port": 7001}]).only("valkey_primaries")
        assert problem.found.endswith("1 primary")

    def test_more_replicas_than_hosts_can_separate(self, sample):
        crowded = sample.variables(valkey_instances=[{"port": 7000 + n} for n in range(1, 5)], valkey_replicas=3)
        assert "with 3 replicas" in crowded.only("valkey_placement").found

    def test_an_uneven_spread_that_cannot_be_separated(self, sample):
        uneven = sample.variables("node1", valkey_instances=[{"port": 7000 + n} for n in range(1, 5)])
        uneven = uneven.variables("node2", "node3", valkey_instances=[{"port": 7001}])
        assert uneven.rules() == ["valkey_placement"]

    def test_two_hosts_cannot_keep_a_majority(self, sample):
        two = sample.groups(valkey=("node1", "node2")).variables(
            valkey_instances=[{"port": 7000 + n} for n in (1, 2, 3)]
        )
        assert two.rules() == ["valkey_majority"]

    def test_nine_instances_on_three_hosts_are_three_primaries_with_two_replicas(self, sample):
        nine = sample.variables(valkey_instances=[{"port": 7000 + n} for n in (1, 2, 3)])
        assert (nine.rules(), nine.verdict().warnings) == ([], ())

    @pytest.mark.parametrize("name", ["admin", "default", "replication", "respread"])
    def test_a_user_of_our_own_is_refused(self, sample, name):
        problem = sample.variables(valkey_users=[{"name": "orderapp"}, {"name": name}]).only("valkey_user_reserved")
        assert problem.found == f"a user named {name}"
        sound = sample.variables(valkey_users=[{"name": f"{name}2"}])
        assert "valkey_user_reserved" not in sound.rules()

    def test_zones_that_cannot_keep_replicas_apart_are_a_warning(self, sample):
        good = sample
        for name, zone in (("node1", "a"), ("node2", "b"), ("node3", "c")):
            good = good.variables(name, zone=zone)
        assert good.verdict().warnings == ()
        verdict = good.variables("node3", zone="b").verdict()
        assert [item.rule for item in verdict.warnings] == ["valkey_zones"]
        assert "b: 4 instances" in verdict.warnings[0].found

    def test_instances_left_over_are_a_warning(self, sample):
        verdict = sample.variables("node1", valkey_instances=[{"port": 7000 + n} for n in (1, 2, 3)]).verdict()
        assert ([item.rule for item in verdict.warnings], verdict.problems) == (["valkey_remainder"], ())


class TestTimings:
    @pytest.mark.parametrize(
        ("values", "subject"),
        [
            ({"ttl": 19}, "ttl of patroni_timing fast"),
            ({"loop_wait": 0}, "loop_wait of patroni_timing fast"),
            ({"retry_timeout": 2}, "retry_timeout of patroni_timing fast"),
            ({"retry_timeout": 8}, "ttl of patroni_timing fast"),
            ({"loop_wait": 11}, "ttl of patroni_timing fast"),
            ({"ttl": "soon"}, "ttl of patroni_timing fast"),
        ],
    )
    def test_a_value_outside_the_legal_range(self, sample, values, subject):
        assert sample.variables(patroni_dynamic_config=values).only("timing_range").subject == subject

    def test_values_at_the_edge_pass(self, sample):
        assert sample.variables(patroni_dynamic_config={"ttl": 20, "loop_wait": 10, "retry_timeout": 5}).rules() == []

    def test_an_unknown_profile(self, sample):
        problem = sample.variables(patroni_timing="faster").only("timing_profile")
        assert problem.allowed == "fast, standard, patient"

    def test_the_collections_own_profiles_are_legal(self, sample):
        for profile in sample.inventory.collection.timings:
            assert sample.variables(patroni_timing=profile).rules() == []

    def test_a_clusters_value_that_differs_between_hosts(self, sample):
        problem = sample.variables("node3", patroni_timing="patient").only("cluster_wide")
        assert problem.found == "fast on node1, node2; patient on node3"


class TestVariables:
    @pytest.mark.parametrize(
        ("typo", "meant"), [("patroni_timming", "patroni_timing"), ("valkey_instanses", "valkey_instances")]
    )
    def test_a_typo_is_named_with_what_was_meant(self, sample, typo, meant):
        problem = sample.variables(**{typo: 1}).only("unknown_variable")
        assert (problem.subject, problem.hosts) == (typo, THREE)
        assert meant in problem.remedy

    def test_a_foreign_variable_can_be_listed(self, sample):
        foreign = sample.variables(patroni_dashboard_colour="blue")
        assert foreign.rules() == ["unknown_variable"]
        assert foreign.options(extra_variables=frozenset({"patroni_dashboard_colour"})).rules() == []

    def test_variables_of_others_are_not_ours_to_judge(self, sample):
        assert sample.variables(nginx_port=80, ntp_servers=[], __patroni_internal=1).rules() == []

    def test_a_typo_in_the_prefix_is_a_warning(self, sample):
        verdict = sample.variables(patron_timing="fast").verdict()
        assert ([item.rule for item in verdict.warnings], verdict.problems) == (["misspelt_variable"], ())

    def test_a_typo_inside_a_known_option(self, sample):
        problem = sample.variables(patroni_users=[{"name": "a"}, {"name": "b", "pasword": "x"}]).only(
            "unknown_variable"
        )
        assert problem.subject == "patroni_users[1].pasword"
        assert problem.remedy == "rename it to password"

    def test_a_variable_that_has_no_effect(self, sample):
        assert sample.variables(cluster_ports={}).rules() == ["fixed_variable"]

    @pytest.mark.parametrize(
        "values",
        [
            {"cluster_vip_prefix": "wide"},
            {"patroni_users": [{"superuser": True}]},
            {"patroni_users": "orderuser"},
            {"cluster_client_certificates": "perhaps"},
        ],
    )
    def test_a_value_that_a_role_would_refuse_later(self, sample, values):
        assert sample.variables(**values).rules() == ["bad_value"]

    @pytest.mark.parametrize("values", [{"host_firewall": "false"}, {"etcd_quota_mebibytes": "4096"}])
    def test_text_that_a_role_would_take_for_something_else(self, sample, values):
        (name,) = values
        problem = sample.variables(**values).only("bad_value")
        assert (problem.subject, problem.found) == (name, f"the text {values[name]!r}")

    def test_a_value_that_holds_secrets_is_not_shown(self, sample):
        problems = sample.variables(patroni_users=[{"superuser": "hunter2hunter2"}]).verdict().problems
        assert [problem.subject for problem in problems] == ["patroni_users[0].superuser", "patroni_users"]
        assert "hunter2" not in judge.render(problems)

    def test_what_is_wrong_beside_a_secret_is_said_and_the_secret_is_not(self, sample):
        problem = sample.variables(patroni_users=[{"name": "app", "superuser": "hunter2hunter2"}]).only("bad_value")
        assert (problem.subject, problem.allowed) == ("patroni_users[0].superuser", "bool")
        assert "hunter2" not in judge.render([problem])

    @pytest.mark.parametrize(
        "secret",
        [
            "",
            None,
            "changeme",
            "Changeme123!",
            "password",
            "postgres",
            "admin",
            "secret",
            "orders",
            "short",
            "aaaaaaaaaaaaaaaa",
        ],
    )
    def test_a_weak_secret(self, sample, secret):
        problem = sample.variables(cluster_etcd_root_password=secret).only("weak_secret")
        assert problem.subject == "cluster_etcd_root_password"
        assert not secret or secret not in problem.found.split()

    def test_a_users_own_name_is_no_secret(self, sample):
        weak = sample.variables(patroni_users=[{"name": "orderapplication", "password": "orderapplication"}])
        assert weak.only("weak_secret").subject == "patroni_users[0].password"

    def test_a_good_secret_passes_and_a_missing_one_is_generated(self, sample):
        good = sample.variables(
            cluster_etcd_root_password="kR8vQ2mXw0pL",
            patroni_users=[{"name": "a", "password": "kR8vQ2mXw0pL"}, {"name": "b"}],
        )
        assert good.rules() == []

    def test_a_variable_that_cannot_be_evaluated(self, sample):
        problem = sample.host("node2", failed={"cluster_vip": "'lan' is undefined"}).only("template_error")
        assert (problem.hosts, problem.subject, problem.found) == (("node2",), "cluster_vip", "'lan' is undefined")


class TestMachines:
    @pytest.mark.parametrize(
        "release",
        [
            {"os_codename": "bullseye", "os_name": "Debian GNU/Linux 11 (bullseye)"},
            {"os_id": "ubuntu", "os_codename": "noble", "os_name": "Ubuntu 24.04"},
        ],
    )
    def test_an_unsupported_release(self, sample, release):
        problem = sample.probe("node3", **release).only("os_release")
        assert problem.found == release["os_name"]
        assert "Debian trixie" in problem.allowed

    def test_a_postgresql_that_the_release_does_not_have(self, sample):
        problem = sample.variables(cluster_postgresql_version=18).only("postgresql_version")
        assert (problem.found, problem.allowed[:2]) == ("18", "17")
        assert sample.variables(cluster_postgresql_version="17").rules() == []

    def test_two_postgresql_versions_in_one_cluster(self, sample):
        mixed = sample.probe("node3", os_codename="forky")
        assert mixed.only("postgresql_version_mixed").found == "PostgreSQL 17 on node1, node2; PostgreSQL 18 on node3"

    def test_a_host_without_systemd(self, sample):
        assert sample.probe("node1", systemd=False).rules() == ["systemd"]

    def test_an_old_python(self, sample):
        assert sample.probe("node1", python="3.9.2").rules() == ["python_version"]

    def test_a_clock_that_is_provably_off(self, sample):
        problem = sample.probe("node2", clock=(2.4, 2.6)).only("clock_skew")
        assert problem.hosts == ("node2",)
        assert problem.found.startswith("at least 2.4 s ahead")
        assert "behind" in sample.probe("node2", clock=(-9.0, -8.0)).only("clock_skew").found

    def test_a_slow_connection_is_not_a_wrong_clock(self, sample):
        assert sample.probe("node2", clock=(0.9, 6.0)).rules() == []

    def test_no_time_synchronisation(self, sample):
        assert sample.probe(synchronized=False).rules() == ["time_sync"]
        in_container = sample.probe(synchronized=False, container="docker").verdict()
        assert ([item.rule for item in in_container.warnings], in_container.problems) == (["time_sync"], ())
        assert sample.probe(synchronized=None).rules() == []
        assert sample.variables(host_time_sync=True).probe(synchronized=False).rules() == []

    def test_limits_beyond_the_memory(self, sample):
        limits = [{"port": 7001, "maxmemory": "3gb"}, {"port": 7002, "maxmemory": "3gb"}]
        assert sample.variables(valkey_instances=limits).rules() == []
        problem = sample.variables(valkey_instances=limits, patroni_parameters={"shared_buffers": "2GB"}).only("memory")
        assert "together 8192 MiB" in problem.found
        assert "8000 MiB" in problem.allowed

    def test_the_share_of_instances_without_a_limit_counts(self, sample):
        shared = sample.variables(valkey_memory_fraction=0.6, patroni_parameters={"shared_buffers": "4GB"})
        assert "Valkey 7001 2400 MiB, Valkey 7002 2400 MiB, shared_buffers 4096 MiB" in shared.only("memory").found
        assert sample.variables(valkey_memory_fraction=0.2, patroni_parameters={"shared_buffers": "4GB"}).rules() == []

    def test_a_quarter_of_what_postgresql_plans_with_counts(self, sample):
        assert "shared_buffers 8000 MiB" in sample.variables(patroni_memory=32000).only("memory").found
        own = sample.variables(patroni_memory=32000, patroni_host_parameters={"shared_buffers": "1GB"})
        assert own.rules() == []

    def test_little_room(self, sample):
        full = sample.probe("node1", filesystems=(Filesystem("/var/lib/postgresql", "/", 900, 50000, False),))
        assert full.only("disk_space").subject == "/var/lib/postgresql"
        assert full.options(free_mib=500).rules() == []

    def test_one_full_file_system_is_one_problem(self, sample):
        paths = ("/var/lib/etcd", "/var/lib/postgresql", "/var/lib/valkey")
        full = sample.probe("node1", filesystems=tuple(Filesystem(path, "/", 900, 50000, False) for path in paths))
        assert full.rules() == ["disk_space"]

    def test_a_read_only_file_system(self, sample):
        broken = sample.probe(
            "node1", filesystems=(Filesystem("/var/lib/valkey", "/var/lib/valkey", 9000, 50000, True),)
        )
        assert broken.rules() == ["disk_read_only"]


class TestDataDirectories:
    ours = "/var/lib/postgresql/17/orders"

    def test_our_own_cluster_is_welcome(self, sample):
        seen = sample.probe(
            postgresql_dirs=(PostgresqlDir(self.ours, "17", "7574563", False),),
            patroni_scope="orders",
            patroni_data_dir=self.ours,
        )
        assert seen.rules() == []

    def test_an_empty_directory_is_welcome(self, sample):
        assert sample.probe(postgresql_dirs=(PostgresqlDir(self.ours, "", "", True),)).rules() == []

    @pytest.mark.parametrize(
        ("directory", "patroni", "words"),
        [
            (PostgresqlDir(ours, "17", "7574563", False), {}, "no Patroni configuration"),
            (
                PostgresqlDir(ours, "17", "7574563", False),
                {"patroni_scope": "billing", "patroni_data_dir": ours},
                "gives to billing",
            ),
            (PostgresqlDir(ours, "15", "7574563", False), {}, "data of PostgreSQL 15"),
            (PostgresqlDir(ours, "", "", False), {}, "not PostgreSQL's"),
            (PostgresqlDir("/var/lib/postgresql/15/orders", "15", "7574563", False), {}, "in PostgreSQL 15"),
        ],
    )
    def test_a_directory_that_belongs_to_something_else(self, sample, directory, patroni, words):
        problem = sample.probe("node1", postgresql_dirs=(directory,), **patroni).only("postgresql_data_dir")
        assert words in problem.found
        assert problem.where == f"node1:{directory.path}"

    def test_a_data_directory_of_the_operators_choice(self, sample):
        elsewhere = sample.variables(patroni_data_dir="/data/orders")
        foreign = elsewhere.probe("node1", postgresql_dirs=(PostgresqlDir("/data/orders", "17", "7574563", False),))
        assert foreign.only("postgresql_data_dir").where == "node1:/data/orders"
        full = elsewhere.probe("node1", filesystems=(Filesystem("/data/orders", "/data", 10, 100, False),))
        assert full.rules() == ["disk_space"]

    def test_other_clusters_elsewhere_are_left_alone(self, sample):
        main = PostgresqlDir("/var/lib/postgresql/15/main", "15", "1", False)
        assert sample.probe(postgresql_dirs=(main,)).rules() == []

    @pytest.mark.parametrize(
        "directory",
        [
            ServiceDir("/var/lib/etcd/orders", True, False, ""),
            ServiceDir("/var/lib/etcd/orders", True, True, "billing"),
            ServiceDir("/var/lib/etcd/default", True, True, ""),
            ServiceDir("/srv/etcd", True, True, "orders"),
        ],
    )
    def test_a_foreign_etcd_member(self, sample, directory):
        assert sample.probe("node1", etcd_dirs=(directory,)).only("etcd_data_dir").subject == directory.path

    def test_our_etcd_member_and_others_that_nobody_runs(self, sample):
        dirs = (
            ServiceDir("/var/lib/etcd/orders", True, True, "orders"),
            ServiceDir("/var/lib/etcd/orders.old", True, False, ""),
            ServiceDir("/var/lib/etcd/default", False, False, ""),
        )
        assert sample.probe(etcd_dirs=dirs).rules() == []

    def test_an_etcd_directory_of_the_operators_choice(self, sample):
        ours = (ServiceDir("/srv/etcd", True, True, "orders"),)
        assert sample.variables(etcd_data_dir="/srv/etcd").probe(etcd_dirs=ours).rules() == []

    @pytest.mark.parametrize("owner", ["", "single"])
    def test_foreign_valkey_data(self, sample, owner):
        seen = sample.probe("node1", valkey_dirs=(ServiceDir("/var/lib/valkey/7001", True, bool(owner), owner),))
        assert seen.rules() == ["valkey_data_dir"]

    def test_our_valkey_data_and_that_of_other_instances(self, sample):
        dirs = (
            ServiceDir("/var/lib/valkey/7001", True, True, "cluster"),
            ServiceDir("/var/lib/valkey/9999", True, False, ""),
        )
        assert sample.probe(valkey_dirs=dirs).rules() == []


class TestVerdict:
    def test_everything_at_once(self, sample):
        broken = (
            sample.groups(all=(*THREE, "web1"), etcd=("node1", "node2"), webservers=("web1",))
            .variables(
                patroni_timming=1,
                cluster_etcd_root_password="changeme",
                cluster_vip="198.51.100.1",
                patroni_dynamic_config={"ttl": 5},
            )
            .variables("node2", cluster_address="192.0.2.11")
            .variables(valkey_instances=[{"port": 7001}, {"port": 7001}])
            .probe("node3", os_codename="bullseye", clock=(5.0, 5.1), memory_mib=512)
            .variables("node3", patroni_host_parameters={"shared_buffers": "1GB"})
        )
        assert set(broken.rules()) == {
            "address_duplicate",
            "address_not_on_host",
            "clock_skew",
            "etcd_members",
            "memory",
            "os_release",
            "port_clash",
            "timing_range",
            "unknown_group",
            "unknown_variable",
            "vip_network",
            "weak_secret",
        }

    def test_hosts_with_the_same_problem_share_a_line(self):
        one = Problem("disk_space", ("a",), "/x", "f", "a", "r")
        other = Problem("disk_space", ("b",), "/x", "f", "a", "r")
        (merged,) = judge.merge([one, other, one])
        assert merged.hosts == ("a", "b")

    def test_a_long_list_of_hosts_is_cut(self):
        names = tuple(f"node{number}" for number in range(1, 31))
        assert Problem("r", names, "v", "f", "a", "r").where == "node1, node2, node3, node4, node5, node6 and 24 more/v"

    def test_an_accepted_rule_is_reported_apart(self, sample):
        verdict = sample.groups(etcd=("node1", "node2")).verdict("etcd_members")
        assert ([item.rule for item in verdict.accepted], verdict.problems) == (["etcd_members"], ())

    def test_a_misspelt_rule_is_a_problem(self, sample):
        (problem,) = sample.verdict("etcd_member").problems
        assert problem.remedy == "write etcd_members"

    def test_a_line_says_where_what_and_what_to_do(self):
        line = judge.render([Problem("rule", ("node1",), "variable", "this", "that", "so")])
        assert line == "  1. node1/variable: found this; allowed that; do: so. [rule]"


@pytest.mark.parametrize(
    ("variables", "word"),
    [
        ({"backup_jobs": [{"name": "a", "kind": "logical", "calendar": "each night"}]}, "calendar"),
        ({"backup_jobs": [{"name": "a", "kind": "prune", "calendar": "daily"}] * 2}, "two jobs are called a"),
        ({"backup_retention": {"logical": {"keep": 3}}}, "keep is unknown"),
        ({"backup_retention": {"mysql": {"count": 3}}}, "a rule for mysql"),
        ({"backup_offsite": [{"name": "far", "retention": {"valkey": {"days": 0}}}]}, "keeps nothing"),
    ],
)
def test_backup_jobs_and_rules_that_cannot_be_understood(sample, variables, word):
    assert word in sample.variables(**variables).only("backup_schedule").found


@pytest.mark.parametrize(
    ("chosen", "where"),
    [
        ({"cluster_port_pgbouncer": 5432}, "port 5432"),
        ({"cluster_port_haproxy_read_write": 7001}, "port 7001"),
        ({"cluster_port_haproxy_read_only": "5000"}, "port 5000"),
        ({"cluster_port_haproxy_statistics": 17002}, "port 17002"),
        ({"cluster_port_etcd_peer": 2379}, "port 2379"),
        ({"cluster_port_patroni": 7002}, "port 7002"),
    ],
)
def test_a_chosen_port_that_something_else_of_ours_has_is_refused(sample, chosen, where):
    problem = sample.variables(**chosen).only("port_clash")
    assert problem.subject == where
    assert problem.hosts == ("node1", "node2", "node3")


def test_a_taken_port_of_a_balancer_names_the_variable_that_moves_ours(sample):
    taken = sample.probe("node2", listeners=(Listener(6432, "0.0.0.0", "nginx", "/"),))
    assert "or set cluster_port_pgbouncer to another port" in taken.only("port_taken").remedy
    moved = taken.variables(cluster_port_pgbouncer=6433)
    assert "port_taken" not in moved.rules()
    postgresql = sample.probe(listeners=(Listener(5432, "0.0.0.0", "nginx", "/"),)).only("port_taken")
    assert "cluster_port" not in postgresql.remedy


def test_a_member_of_a_running_cluster_keeps_its_ports(sample):
    name = "holdfast"
    etcd = (ServiceDir(f"/var/lib/etcd/{name}", populated=True, configured=True, owner=name),)
    listeners = (Listener(2379, "198.18.0.11", "etcd", "/"), Listener(2380, "198.18.0.11", "etcd", "/"))
    listeners += (Listener(8008, "198.18.0.11", "patroni", "/"),)
    standing = sample.variables(cluster_name=name).probe(
        "node2", etcd_dirs=etcd, patroni_scope=name, listeners=listeners
    )
    assert "port_moved" not in standing.rules()
    moved = standing.variables(cluster_port_etcd_client=12379).only("port_moved")
    assert (moved.hosts, moved.subject) == (("node2",), "cluster_port_etcd_client")
    assert moved.found == "12379, while etcd of the running cluster listens on 2379, 2380"
    assert standing.variables(cluster_port_patroni=8009).only("port_moved").subject == "cluster_port_patroni"
    # Another etcd on the host is no member of this cluster: the port leads past it.
    beside = sample.variables(cluster_name=name, cluster_port_etcd_client=12379, cluster_port_etcd_peer=12380)
    assert "port_moved" not in beside.probe("node2", listeners=listeners[:2]).rules()


@pytest.mark.parametrize("port", [80, 65536])
def test_a_chosen_port_is_in_the_range(sample, port):
    assert (
        sample.variables(cluster_port_haproxy_read_write=port).only("port_range").subject
        == "cluster_port_haproxy_read_write"
    )


def test_balancers_have_the_same_ports(sample):
    alike = sample.variables(cluster_port_pgbouncer=6432)
    assert "cluster_wide" not in alike.rules()
    assert "cluster_wide" in alike.variables("node1", cluster_port_pgbouncer=6433).rules()


class TestPackages:
    @pytest.mark.parametrize(
        ("package", "remedy"),
        [
            ("rclone", "take backup_offsite out until the release has it, or add"),
            ("keepalived", "leave cluster_vip out, or add"),
            ("chrony", "set host_time_sync to false"),
            ("nftables", "set host_firewall to false"),
            ("patroni", "add a package source that has it, or use another release"),
            ("htop", "correct host_packages_extra"),
        ],
    )
    def test_a_package_that_cannot_be_had_has_a_remedy_of_its_own(self, sample, package, remedy):
        broken = sample.variables(host_packages_extra=["htop"]).host("node2", unavailable=(Unavailable(package),))
        problem = broken.only("package_unavailable")
        assert problem.where == f"node2/package {package}"
        assert problem.found == "no such package in the package sources of Debian GNU/Linux 13 (trixie)"
        assert problem.remedy.startswith(remedy)

    def test_hosts_that_lack_the_same_are_named_together(self, sample):
        broken = sample.host("node1", unavailable=(Unavailable("patroni"),)).host(
            "node3", unavailable=(Unavailable("patroni"),)
        )
        assert broken.only("package_unavailable").hosts == ("node1", "node3")

    def test_lists_that_did_not_come_and_packages_that_do_not_fit_are_told(self, sample):
        unreached = sample.host("node1", unavailable=(Unavailable("zstd", "Could not connect"),))
        assert "(apt-get update says: Could not connect)" in unreached.only("package_unavailable").found
        unfit = sample.host("node1", unavailable=(Unavailable("", "a : Depends: b"),)).only("package_unavailable")
        assert (unfit.subject, unfit.found.endswith("refuses to install together: a : Depends: b")) == (
            "packages",
            True,
        )


class TestDataDirectory:
    WANTED = "/var/lib/postgresql/17/orders"

    def running(self, sample, *more, **configured):
        """A host whose cluster runs in the directory that the inventory asks for, and what else is there."""
        known = PostgresqlDir(self.WANTED, "17", "75", empty=False, real=self.WANTED)
        seen = {"patroni_scope": "orders", "patroni_data_dir": self.WANTED, "postgresql_dirs": (known, *more)}
        return sample.probe("node1", **{**seen, **configured})

    def test_another_directory_for_a_running_cluster_is_refused(self, sample):
        moved = self.running(sample).variables("node1", patroni_data_dir="/srv/new")
        problem = moved.only("postgresql_data_dir_moved")
        assert problem.where == "node1/patroni_data_dir"
        assert problem.found == f"/srv/new, while the cluster's data is in {self.WANTED}"
        assert problem.remedy.startswith(f"set patroni_data_dir to {self.WANTED}")

    def test_another_name_of_the_same_directory_is_fine(self, sample):
        link = PostgresqlDir("/srv/link", "17", "75", empty=False, real=self.WANTED)
        same = self.running(sample, link).variables("node1", patroni_data_dir="/srv/link")
        assert "postgresql_data_dir_moved" not in same.rules()
        assert self.running(sample).variables("node1", patroni_data_dir=f"{self.WANTED}/").rules() == []

    def test_a_host_of_which_the_data_is_gone_may_get_another_directory(self, sample):
        gone = self.running(sample, postgresql_dirs=()).variables("node1", patroni_data_dir="/srv/new")
        assert gone.rules() == []

    def test_a_mount_point_is_refused_before_there_is_data_and_mentioned_afterwards(self, sample):
        fresh = PostgresqlDir(self.WANTED, "", "", empty=False, real="/srv/disk", mount=True)
        problem = sample.probe("node1", postgresql_dirs=(fresh,)).only("postgresql_data_dir_mount")
        assert (problem.warning, problem.found) == (False, "a mount point (behind a symbolic link to /srv/disk)")
        assert sample.probe("node1", postgresql_dirs=(fresh,)).rules() == ["postgresql_data_dir_mount"]
        lived_in = PostgresqlDir(self.WANTED, "17", "75", empty=False, real=self.WANTED, mount=True)
        assert self.running(sample, postgresql_dirs=(lived_in,)).only("postgresql_data_dir_mount").warning

    def test_a_locale_that_a_host_lacks(self, sample):
        problem = sample.probe("node2", missing_locales=("de_DE.UTF-8",)).only("locale_missing")
        assert problem.where == "node2/patroni_initdb"
        assert problem.found == "the locale de_DE.UTF-8, which the host does not have"

    @pytest.mark.parametrize("folder", ["wal", "/var/lib/postgresql/17/orders/wal", "/var/lib/postgresql", WANTED])
    def test_wal_lies_neither_in_the_data_nor_above_it(self, sample, folder):
        assert not sample.variables(patroni_wal_dir=folder).only("postgresql_wal_dir").warning
        assert sample.variables(patroni_wal_dir="/srv/wal").rules() == []

    @pytest.mark.parametrize(
        ("declared", "there", "mentioned"),
        [
            ("", "/var/lib/postgresql/17/orders/pg_wal", False),
            ("/srv/wal", "/srv/wal/orders", False),
            ("/srv/wal", "/var/lib/postgresql/17/orders/pg_wal", True),
            ("", "/srv/wal/orders", True),
        ],
    )
    def test_a_member_whose_wal_is_elsewhere_is_mentioned(self, sample, declared, there, mentioned):
        data = PostgresqlDir(self.WANTED, "17", "75", empty=False, real=self.WANTED, wal=there)
        verdict = self.running(sample, postgresql_dirs=(data,)).variables(patroni_wal_dir=declared).verdict()
        assert [item.rule for item in verdict.warnings] == ["postgresql_wal_dir"] * mentioned
