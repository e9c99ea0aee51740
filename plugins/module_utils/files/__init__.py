# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Files on a host: what differs from the wish, and how a file is replaced as a whole."""
