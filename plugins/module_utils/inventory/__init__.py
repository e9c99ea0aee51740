# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""A running cluster as an inventory: what its hosts say, what would keep it, and what somebody has to decide."""
