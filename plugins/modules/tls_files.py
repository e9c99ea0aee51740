#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Documentation of the action tls_files, which does its work on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
module: tls_files
short_description: Issue a host's certificates on the controller and place them on the host
version_added: 0.1.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Keeps a certificate authority in a folder on the controller, issues the certificates that are missing, changed or
    about to expire, and brings them to the host.
  - Each certificate and its private key are one file, so a killed run never leaves a key without its certificate.
  - A run in which nothing is to be issued or placed costs one task.
  - With O(provider=own) the folder is filled by somebody else's authority; the files are checked and placed.
options:
  provider:
    description: Who issues.
    type: str
    choices: [internal, own]
    default: internal
  folder:
    description:
      - Folder on the controller with C(ca.crt), C(hosts/<host>/<service>.pem), and for O(provider=internal) C(ca.key)
        and C(clients/<name>.{key,crt}).
    type: path
    required: true
  dest:
    description: Folder on the host.
    type: path
    required: true
  host:
    description: Name of the host's folder below C(hosts).
    type: str
    required: true
  organization:
    description: Organization in the subject of every certificate.
    type: str
    required: true
  certificates:
    description: The host's certificates.
    type: list
    elements: dict
    required: true
    suboptions:
      service:
        description: Name of the file, without C(.pem).
        type: str
        required: true
      common_name:
        description: Common name in the subject. None where empty.
        type: str
        default: ""
      names:
        description: DNS names and IP addresses.
        type: list
        elements: str
        default: []
      usages:
        description: What the certificate is for.
        type: list
        elements: str
        choices: [server, client]
        default: [server, client]
      owner:
        description: User and group of the file on the host.
        type: str
        default: root
  clients:
    description: Names of people and applications. Their certificates stay on the controller.
    type: list
    elements: str
    default: []
  days:
    description: Days for which a new certificate is valid.
    type: int
    default: 365
  renew_days:
    description: Certificates with fewer days left are issued anew.
    type: int
    default: 30
  ca_days:
    description: Days for which a new authority is valid.
    type: int
    default: 3650
requirements:
  - cryptography >= 42 (on the controller)
attributes:
  check_mode:
    description: Says what would be issued and placed.
    support: full
  diff_mode:
    description: Shows why, never a key.
    support: full
"""

EXAMPLES = r"""
- name: Issue and place the certificates of the host
  holdfast.persistence.tls_files:
    folder: "{{ inventory_dir }}/.secrets/tls"
    dest: /etc/ssl/holdfast
    host: "{{ inventory_hostname }}"
    organization: example
    certificates:
      - service: etcd
        common_name: "{{ inventory_hostname }}"
        names: ["{{ inventory_hostname }}", 192.0.2.11, localhost, 127.0.0.1]
        owner: etcd

- name: Place the certificates of a PKI of one's own, which are checked first
  holdfast.persistence.tls_files:
    provider: own
    folder: /srv/pki/payroll
    dest: /etc/ssl/holdfast
    host: "{{ inventory_hostname }}"
    organization: payroll
    certificates:
      - service: etcd
        common_name: "{{ inventory_hostname }}"
        names: ["{{ inventory_hostname }}", 192.0.2.11, localhost, 127.0.0.1]
        owner: etcd
"""

RETURN = r"""
issued:
  description: Why each certificate was issued, by service; in check mode why it would be.
  type: dict
  returned: always
  sample: {etcd: "expires at 2027-01-31 10:00 UTC"}
changed_paths:
  description: Files that were written on the host; in check mode those that would be.
  type: list
  elements: str
  returned: always
  sample: [/etc/ssl/holdfast/etcd.pem]
"""

from ansible.module_utils.basic import AnsibleModule

ARGUMENTS = {
    "provider": {"type": "str", "choices": ["internal", "own"], "default": "internal"},
    "folder": {"type": "path", "required": True},
    "dest": {"type": "path", "required": True},
    "host": {"type": "str", "required": True},
    "organization": {"type": "str", "required": True},
    "certificates": {
        "type": "list",
        "elements": "dict",
        "required": True,
        "options": {
            "service": {"type": "str", "required": True},
            "common_name": {"type": "str", "default": ""},
            "names": {"type": "list", "elements": "str", "default": []},
            "usages": {
                "type": "list",
                "elements": "str",
                "choices": ["server", "client"],
                "default": ["server", "client"],
            },
            "owner": {"type": "str", "default": "root"},
        },
    },
    "clients": {"type": "list", "elements": "str", "default": []},
    "days": {"type": "int", "default": 365},
    "renew_days": {"type": "int", "default": 30},
    "ca_days": {"type": "int", "default": 3650},
}


def main() -> None:
    """Refuse to run without the action of the same name."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    module.fail_json(msg="tls_files works on the controller; it was run on a host without its action plugin")


if __name__ == "__main__":
    main()
