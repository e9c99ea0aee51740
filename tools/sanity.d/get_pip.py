# SPDX-License-Identifier: Apache-2.0
"""Stand-in for the script that ansible-test downloads to put pip into its empty virtual environments.

Installs the pip that Python itself carries, then, from the package index, what the command line asks for.
"""

from __future__ import annotations

import subprocess
import sys

# get-pip also installs setuptools and wheel unless told not to; this never does.
REFUSALS = {"--no-setuptools", "--no-wheel"}

subprocess.run([sys.executable, "-m", "ensurepip", "--default-pip"], check=True, stdout=subprocess.DEVNULL)
wanted = [argument for argument in sys.argv[1:] if argument not in REFUSALS]
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=False).returncode)
