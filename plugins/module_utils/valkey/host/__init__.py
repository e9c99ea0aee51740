# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""The Valkey servers of one host: their files, settings and processes."""
