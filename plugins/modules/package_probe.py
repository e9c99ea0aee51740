#!/usr/bin/python
# Copyright: the holdfast.persistence authors
# Apache License 2.0 (see LICENSE) or, at your option,
# GNU General Public License v3.0+ (see LICENSES/GPL-3.0-or-later.txt)
# SPDX-License-Identifier: Apache-2.0 OR GPL-3.0-or-later
"""Module that asks apt whether packages could be installed, and installs none."""

from __future__ import annotations

DOCUMENTATION = r"""
module: package_probe
short_description: Ask whether the packages that a host needs can be had
version_added: 0.2.0
author:
  - The holdfast.persistence authors (@holdfast)
description:
  - Where a package is missing it fetches the host's package lists into a temporary folder, looks for a version of each, and lets apt
    simulate the installation. The host's own lists, sources and packages stay as they are, so check mode tells the same.
  - Where all packages are installed no list is fetched.
  - An action plugin finds out which packages these are, out of the inventory and the roles, unless O(packages) says so. On a host of a
    release that the collection has no platform for it asks nothing.
options:
  packages:
    description: Names of the packages. By default those that the role P(holdfast.persistence.host#role) would install.
    type: list
    elements: str
  release:
    description: Code name of the host's release, for example V(bookworm). By default the one that M(holdfast.persistence.host_probe) saw.
    type: str
    default: ""
  suite:
    description: Suite that would be added to the host's sources as M(holdfast.persistence.apt_backports) does it, empty for none.
    type: str
    default: ""
  suite_packages:
    description: Packages that would come from O(suite) whatever other suites have.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
seealso:
  - module: holdfast.persistence.preflight
"""

EXAMPLES = r"""
- name: Ask whether what the host needs can be had
  holdfast.persistence.package_probe:
  register: __preflight_packages

- name: Ask whether named packages can be had
  holdfast.persistence.package_probe:
    packages: [rclone, zstd]
    release: trixie
  register: __packages
"""

RETURN = r"""
missing:
  description: Names of the packages that are not installed.
  type: list
  elements: str
  returned: when the host was asked
  sample: [rclone]
unavailable:
  description:
    - What can't be installed, each with V(package) and V(reason).
    - Without a reason no source of the host has the package; without a package apt refused the installation as a whole.
  type: list
  elements: dict
  returned: when the host was asked
  sample: [{package: rclone, reason: ""}]
"""

import os
import shutil
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.holdfast.persistence.plugins.module_utils.apt import availability, host

LISTS = "/var/lib/apt/lists"
STATUS = r"${Package} ${db:Status-Status}\n"


class Apt:
    """apt and dpkg of this host, with package lists and sources of their own in a temporary folder."""

    def __init__(self, module: AnsibleModule, folder: str) -> None:
        self._module = module
        self._folder = folder

    def prepare(self, more: dict[str, str]) -> None:
        """Copy the host's lists and sources, and add the files in `more`, by the paths that they would have. Raises OSError."""
        for name, there in (("sources", "sources.list.d"), ("preferences", "preferences.d")):
            own = os.path.join(self._folder, name)
            os.makedirs(own)
            copy_files(os.path.join(host.APT, there), own)
            for path, content in more.items():
                if os.path.dirname(path).endswith(there):
                    with open(os.path.join(own, os.path.basename(path)), "w", encoding="utf-8") as stream:
                        stream.write(content)
        # Lists that are already here are only asked for anew, which is quick where they are fresh.
        for name in ("lists/partial", "cache/archives/partial"):
            os.makedirs(os.path.join(self._folder, name))
        copy_files(LISTS, os.path.join(self._folder, "lists"))

    def update(self) -> str:
        """Fetch the lists; return what apt complained of, nothing where all came."""
        _code, out, err = self._run("apt-get", "update", "-qq")
        return availability.complaint(f"{err}\n{out}")

    def without_candidate(self, wanted: list[str]) -> list[str]:
        """Return the packages of which there is no version to install."""
        _code, out, _err = self._run("apt-cache", "policy", *wanted)
        return availability.without_candidate(wanted, out)

    def refusal(self, wanted: list[str]) -> str:
        """Let apt simulate the installation; return why it refused, nothing where it would do it."""
        code, out, err = self._run("apt-get", "install", "--simulate", "--no-install-recommends", *wanted)
        return availability.conflicts(f"{out}\n{err}") if code != 0 else ""

    def _run(self, program: str, *arguments: str) -> tuple[int, str, str]:
        options = {
            "Dir::State::Lists": f"{self._folder}/lists",
            "Dir::Cache": f"{self._folder}/cache",
            "Dir::Etc::SourceParts": f"{self._folder}/sources",
            "Dir::Etc::PreferencesParts": f"{self._folder}/preferences",
            # Its own user can't write into the temporary folder of this one.
            "APT::Sandbox::User": "root",
            # What hosts hang on an update (APT::Update::Post-Invoke) is for their own lists.
            "APT::Update::Post-Invoke": "",
            "APT::Update::Post-Invoke-Success": "",
        }
        settings = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
        path = self._module.get_bin_path(program, required=True)
        return self._module.run_command([path, *settings, *arguments], environ_update={"LC_ALL": "C"})


def copy_files(source: str, target: str) -> None:
    """Copy the files of a folder, not its folders. Raises OSError."""
    if os.path.isdir(source):
        for entry in os.scandir(source):
            if entry.is_file() and entry.name != "lock":
                shutil.copyfile(entry.path, os.path.join(target, entry.name))


def installed(module: AnsibleModule, wanted: list[str]) -> str:
    """Return what dpkg says about packages; of those it does not know it says nothing and exits with 1."""
    path = module.get_bin_path("dpkg-query", required=True)
    code, out, err = module.run_command([path, "--show", "--showformat", STATUS, *wanted])
    if code not in (0, 1):
        module.fail_json(msg=f"package_probe: dpkg-query failed: {err.strip()}")
    return out


def run(module: AnsibleModule) -> dict[str, object]:
    """Ask; return the result of the module. Raises LookupError and OSError."""
    params = module.params
    wanted = params["packages"] or []
    missing = availability.missing(wanted, installed(module, wanted)) if wanted else []
    if not missing:
        return {"changed": False, "missing": [], "unavailable": []}
    with tempfile.TemporaryDirectory(prefix="package_probe-") as folder:
        apt = Apt(module, folder)
        apt.prepare(
            host.wishes(params["release"], params["suite"], params["suite_packages"]) if params["suite"] else {}
        )
        updated = apt.update()
        lacking = apt.without_candidate(missing)
        found = availability.judge(lacking, updated, "" if lacking else apt.refusal(missing))
    return {"changed": False, "missing": missing, "unavailable": availability.as_results(found)}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str"},
            "release": {"type": "str", "default": ""},
            "suite": {"type": "str", "default": ""},
            "suite_packages": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        module.exit_json(**run(module))
    except LookupError as error:
        module.fail_json(msg=f"{error.args[0]}: add a source with the suite by hand and run again")
    except OSError as error:
        module.fail_json(msg=f"package_probe: {error}")


if __name__ == "__main__":
    main()
