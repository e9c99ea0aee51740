# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""PostgreSQL servers: replication and its rules, settings, passwords."""
