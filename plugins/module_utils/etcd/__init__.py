# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""etcd: its members, users and keys, and the client that asks for them."""
