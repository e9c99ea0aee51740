# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Locks that the kernel lets go with the process that holds them."""

from __future__ import annotations

import fcntl
import time

POLL_SECONDS = 0.2


def locked(descriptor: int, seconds: float, *, shared: bool = False) -> bool:
    """Lock an open file or folder (flock(2)), waiting for whoever holds it; return whether it is locked in time.

    Parameters: seconds to wait; shared, whether others may hold it in the same way. Raises OSError.
    """
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
        # The kernel wakes one who waits without end, but knows no wait that ends.
        time.sleep(POLL_SECONDS)
