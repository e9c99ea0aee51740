# SPDX-License-Identifier: Apache-2.0
"""The report shows what happened: a row for every trial, a well-formed timeline, the worst first."""

from __future__ import annotations

from xml.etree import ElementTree

from faults import report
from faults.catalogue import FAULTS
from faults.checker import Outage, Violation
from faults.history import Event, Probe

TRIAL = report.Trial("postmaster killed", "node1", 10.0, 15.0, 21.5, {"pool": 3.25}, 4, states={"25006": 3, "none": 1})


def test_the_table_has_what_each_fault_cost() -> None:
    lines = report.table(
        [TRIAL, report.Trial("host <killed>", "node2", 30.0, 40.0, problem="did not come back")]
    ).splitlines()
    assert lines[2] == "| postmaster killed | node1 | 3.2 | 4 | 25006: 3, none: 1 | 6 |  |"
    assert lines[3] == "| host <killed> | node2 | 0.0 | 0 |  | never | did not come back |"


def test_a_campaign_without_violation_says_so() -> None:
    assert report.verdict([]).startswith("No violation")


def test_violations_are_counted_by_kind_and_few_are_shown() -> None:
    text = report.verdict([Violation("lost", "set", str(n)) for n in range(9)] + [Violation("sum", "bank", "x")])
    assert "10 violations" in text and "lost: 9" in text and "sum: 1" in text
    assert text.count("set:") == 5


def test_looks_of_one_server_become_one_span_until_it_stops_writing() -> None:
    looks = [Probe("a", t / 10, t / 10 + 0.01, t < 20) for t in range(30)]
    assert [(node, start) for node, start, _end in report.leaders(looks)] == [("a", 0.0)]


def test_the_timeline_is_well_formed_whatever_the_names() -> None:
    text = report.timeline(
        [TRIAL, report.Trial("<&>", "x", 30.0, 31.0)],
        [Probe("node1", 1.0, 1.1, True)],
        [Outage("pool", 10.0, 13.0)],
        [Event(10.0, "strike", "f")],
    )
    assert len(ElementTree.fromstring(text).findall("{http://www.w3.org/2000/svg}rect")) == 6


def test_every_fault_has_a_name_of_its_own_and_says_what_it_is() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    assert all(fault.about for fault in FAULTS)


def test_figures_are_median_and_worst_of_the_slower_way_of_all_runs() -> None:
    runs = [
        {
            "fault": "f",
            "date": "2026-11-02",
            "load": a,
            "cores": 2,
            "versions": "postgresql-17 17.1",
            "gaps": {"pool": a, "balancers": b, "valkey plain": 0.5},
            "failed": {"pool": 2, "balancers": 9},
            "healed": 5,
            "healthy": 8,
        }
        for a, b in ((1.0, 2.0), (4.0, 3.0), (9.0, 8.0))
    ]
    lines = report.figures(runs).splitlines()
    assert lines[2] == "| f | 3 | 4.0 | 9.0 | 0.5 | 0.5 | 2 | not counted | 3 |"
    assert (
        lines[-1] == "2026-11-02, 2 cores for hosts, clients and probes, load average 1.0 to 9.0. postgresql-17 17.1."
    )


def test_figures_add_up_what_read_only_servers_said_in_the_runs_that_counted_it() -> None:
    run = {
        "fault": "f",
        "date": "",
        "load": 1,
        "cores": 2,
        "versions": "",
        "gaps": {},
        "failed": {},
        "healed": 5,
        "healthy": 8,
    }
    counted = [run, run | {"states": {"25006": 3}}, run | {"states": {}}, run | {"states": {"25006": 1, "57P01": 9}}]
    assert "| 0 | 4 | 3 |" in report.figures(counted).splitlines()[2]


def test_figures_of_nothing_are_an_empty_table() -> None:
    assert len(report.figures([]).splitlines()) == 3
