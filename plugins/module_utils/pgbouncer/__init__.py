# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""PgBouncer: its console and pools, on this host and on others."""
