#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ansible.posix's callback `json` (2.1.0, in the package ansible 12.3.0 with ansible-core 2.19.14) knows lock-step plays by the
# short name of their strategy only. A play that names `ansible.builtin.linear` in full gets one entry a task AND HOST, where the
# same play with `linear`, or without a name, gets one entry a task with all hosts in it.
# Whoever reads such a report must look a task up by its name, not by its place, and join the entries of its hosts.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check ansible==12.3.0 ansible-core==2.19.14

: > "$folder/ansible.cfg"
cat > "$folder/hosts.yml" <<'YAML'
all:
  vars: {ansible_connection: local, ansible_python_interpreter: "{{ ansible_playbook_python }}"}
  hosts: {db1: {}, db2: {}, db3: {}}
YAML

entries() { # STRATEGY: how many entries the report has for a play of one task on three hosts
  printf -- '- hosts: all\n  gather_facts: false\n  strategy: %s\n  tasks:\n    - name: Answer\n      ansible.builtin.ping:\n' "$1" > "$folder/play.yml"
  ANSIBLE_CONFIG="$folder/ansible.cfg" ANSIBLE_STDOUT_CALLBACK=ansible.posix.json \
    "$folder/venv/bin/ansible-playbook" --inventory "$folder/hosts.yml" "$folder/play.yml" |
    "$folder/venv/bin/python" -c 'import json, sys; print(len(json.load(sys.stdin)["plays"][0]["tasks"]))'
}

short=$(entries linear) full=$(entries ansible.builtin.linear)
echo "ansible.posix.json, one task on three hosts: $short entry with linear, $full entries with ansible.builtin.linear"
[ "$short" = 1 ] && [ "$full" = 3 ]
