# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The one way in which this collection says that something cannot be done. No I/O."""

from __future__ import annotations

from collections.abc import Sequence


class Refusal(Exception):
    """Something cannot be done as it is asked for, or as things are.

    Parameters: problem, what was found, with the name of the host or variable and what is allowed; remedy, what to do next,
    empty where the problem says it.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(f"{problem}. {remedy}" if remedy else problem)
        self.problem = problem
        self.remedy = remedy


class Refusals(Refusal):
    """Several things stand in the way. problems: a sentence for each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = tuple(problems)
