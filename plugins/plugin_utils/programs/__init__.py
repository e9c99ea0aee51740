# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The collection's own programs on the controller: what code each needs."""
