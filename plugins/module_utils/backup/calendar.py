# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Calendar expressions of systemd.time(7), checked without systemd. No I/O.

It refuses what no systemd accepts and says which part is wrong. `systemd-analyze calendar` on the host has the last word.
"""

from __future__ import annotations

import re

from ansible_collections.holdfast.persistence.plugins.module_utils.refusal import Refusal

SHORTHANDS = frozenset(
    {
        "minutely",
        "hourly",
        "daily",
        "weekly",
        "monthly",
        "yearly",
        "annually",
        "anually",
        "quarterly",
        "semiannually",
        "semi-annually",
        "biannually",
        "bi-annually",
    }
)
_DAYS = {
    name: number
    for number, names in enumerate(
        (
            ("mon", "monday"),
            ("tue", "tuesday"),
            ("wed", "wednesday"),
            ("thu", "thursday"),
            ("fri", "friday"),
            ("sat", "saturday"),
            ("sun", "sunday"),
        )
    )
    for name in names
}
_ZONE = re.compile(r"^([A-Z]{2,5}(\d[A-Z]{3})?|[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)+)$")
_LIMITS = {
    "year": (1970, 2199),
    "month": (1, 12),
    "day": (1, 31),
    "day from the end": (1, 30),
    "hour": (0, 23),
    "minute": (0, 59),
    "second": (0, 59),
}


def check(expression: str) -> str:
    """Return a calendar expression with single spaces. Raises Refusal."""
    words = expression.split()
    if not words or not expression.isascii() or not expression.isprintable():
        raise Refusal(f"{expression!r} is not a calendar expression, such as 'daily', '03:30' or 'Sun *-*-* 01:00'")
    normal = " ".join(words)
    try:
        _check_words(list(words))
    except Refusal as error:
        raise Refusal(f"{expression!r} is not a calendar expression: {error}") from None
    return normal


def _check_words(words: list[str]) -> None:
    if len(words) > 1 and _ZONE.match(words[-1]):
        words.pop()
    if len(words) == 1 and (words[0].lower() in SHORTHANDS or re.fullmatch(r"@\d+", words[0])):
        return
    if words and words[0][0].isalpha():
        _check_weekdays(words.pop(0))
    if words and _is_date(words[0]):
        _check_date(words.pop(0))
    if words and ":" in words[0]:
        _check_time(words.pop(0))
    if words:
        raise Refusal(
            f"{words[0]!r} has no place there; the order is weekdays, date (*-*-*), time (HH:MM:SS), time zone"
        )


def _is_date(word: str) -> bool:
    return ":" not in word and ("-" in word or "~" in word)


def _check_weekdays(word: str) -> None:
    for part in word.lower().rstrip(",").split(","):
        ends = part.split("..") if ".." in part else part.split("-")
        for end in ends:
            if end not in _DAYS:
                raise Refusal(f"{end!r} is not a day of the week (Mon to Sun)")
        if len(ends) > 2 or _DAYS[ends[-1]] < _DAYS[ends[0]]:
            raise Refusal(f"{part!r} is not a range of days: it goes from Mon to Sun, such as Mon..Fri")


def _check_date(word: str) -> None:
    head, tilde, tail = word.partition("~")
    parts = [*head.split("-"), tail] if tilde else word.split("-")
    names = ["year", "month", "day from the end" if tilde else "day"]
    if len(parts) not in (2, 3):
        raise Refusal(f"{word!r} is not a date: year-month-day or month-day, each may be *")
    for name, part in zip(names[-len(parts) :], parts, strict=True):
        _check_component(name, part)


def _check_time(word: str) -> None:
    parts = word.split(":")
    if len(parts) not in (2, 3):
        raise Refusal(f"{word!r} is not a time: HH:MM or HH:MM:SS")
    for name, part in zip(("hour", "minute", "second"), parts, strict=False):
        _check_component(name, part)


def _check_component(name: str, text: str) -> None:
    if text == "*":
        return
    for part in text.split(","):
        value, slash, step = part.partition("/")
        low, high = _LIMITS[name]
        if slash and not _is_step(step, name):
            raise Refusal(f"the step {step!r} of the {name} is not a number above 0")
        ends = value.split("..")
        numbers = [_number(end, name) for end in ends]
        if len(numbers) > 2 or not all(low <= number <= high for number in numbers):
            raise Refusal(f"the {name} {value!r} is not in {low}..{high}")
        if numbers[-1] < numbers[0]:
            raise Refusal(f"the range {value!r} of the {name} runs backwards")
        if slash and len(numbers) == 1 and numbers[0] + float(step) > high:
            raise Refusal(f"the step {step!r} of the {name} leads beyond {high}")


def _is_step(text: str, name: str) -> bool:
    pattern = r"\d+(\.\d+)?" if name == "second" else r"\d+"
    return bool(re.fullmatch(pattern, text)) and float(text) > 0


def _number(text: str, name: str) -> float:
    pattern = r"\d{1,2}(\.\d+)?" if name == "second" else r"\d{1,4}"
    if not re.fullmatch(pattern, text):
        raise Refusal(f"{text!r} is no {name}")
    number = float(text)
    # systemd reads two digits as a year of this or the last century.
    if name == "year" and number < 100:
        return number + (2000 if number < 70 else 1900)
    return number
