"""Whether a password is good enough for a service that listens on a network. No I/O."""

from __future__ import annotations

MINIMUM_LENGTH = 12
MINIMUM_DIFFERENT = 5


def weakness(name: str, password: object) -> str:
    """Return why the password of that name is refused, without the password, or nothing."""
    if not isinstance(password, str) or not password.strip():
        return f"{name} is empty"
    if "\n" in password or "\0" in password:
        return f"{name} has a line break or a null byte"
    if len(password) < MINIMUM_LENGTH:
        return f"{name} has {len(password)} characters, allowed are {MINIMUM_LENGTH} or more"
    if len(set(password)) < MINIMUM_DIFFERENT:
        return f"{name} has {len(set(password))} different characters, allowed are {MINIMUM_DIFFERENT} or more"
    if not password.isascii():
        return f"{name} has characters beyond ASCII, which clients normalise in different ways"
    return ""
