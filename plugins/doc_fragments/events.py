# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Options of every module that reads or writes event stores."""

from __future__ import annotations


class ModuleDocFragment:
    """The fragment holdfast.persistence.events."""

    DOCUMENTATION = r"""
options:
  login_host:
    description: Address of the server, or the folder of its Unix socket.
    type: str
    default: /var/run/postgresql
  login_port:
    description: Port of the server.
    type: int
    default: 5432
  login_user:
    description: User of the database.
    type: str
    default: postgres
  login_password:
    description: Password of O(login_user). No password is sent if not given.
    type: str
  login_db:
    description: Database of the store.
    type: str
    required: true
  session_role:
    description: Role to act as. O(login_user) itself if not given.
    type: str
    default: ''
  ssl_mode:
    description: How the connection is protected, as libpq's C(sslmode) says it.
    type: str
    choices: [disable, allow, prefer, require, verify-ca, verify-full]
    default: prefer
  ca_cert:
    description: File with the certificates that the server's must lead to.
    type: path
  client_cert:
    description: File with private key and certificate of the client.
    type: path
  bin_dir:
    description: Folder of C(psql). The one in the search path if not given.
    type: path
    default: ''
  folder:
    description: Folder of backups, in which archives lie as C(events/LABEL).
    type: path
    default: /var/lib/holdfast/backup
  archive:
    description:
      - Name of the archive, up to 63 lower case letters, digits, - and _. An import also takes a label of the catalogue.
    type: str
    required: true
requirements:
  - psql and zstd on the host
attributes:
  check_mode:
    description: Tells what would be written, and writes nothing.
    support: full
  diff_mode:
    description: Shows what is there before and after.
    support: full
"""
