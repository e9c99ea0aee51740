# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the tools share. Source it; it does nothing by itself.
set -euo pipefail

# Messages go to standard error, so that standard output stays a result.
say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

cache_dir() { printf '%s/holdfast' "${XDG_CACHE_HOME:-$HOME/.cache}"; }

# install_packages COMMAND-OR-PATH=PACKAGE ...: install the Debian packages whose command or file is missing.
# Tools that run side by side install one after the other; whoever waited looks again.
install_packages() {
  local lock missing
  missing=$(_missing_packages "$@")
  [ -n "$missing" ] || return 0
  [ -e /etc/debian_version ] || die "these programs are missing, and only on Debian they can be installed here: $missing"
  [ "$(id -u)" -eq 0 ] || die "these packages are missing: run 'apt-get install $missing' as root, then try again"
  # One lock for the machine, whatever cache folder a tool was given.
  exec {lock}</var/lib/dpkg
  flock "$lock"
  read -r -a missing <<<"$(_missing_packages "$@")"
  if [ "${#missing[@]}" -gt 0 ]; then
    say "installing ${missing[*]}"
    # A service that a package starts must not keep the lock.
    apt-get update -qq {lock}>&-
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends -o DPkg::Lock::Timeout=300 "${missing[@]}" \
      >/dev/null {lock}>&-
  fi
  exec {lock}>&-
}

_missing_packages() {
  local pair missing=()
  for pair in "$@"; do
    command -v "${pair%%=*}" >/dev/null || [ -e "${pair%%=*}" ] || missing+=("${pair#*=}")
  done
  echo "${missing[*]}"
}

# debian_sources SUITE: apt lines for a release, from the archives this machine itself installs from; areas an archive lacks are left out.
debian_sources() {
  local main security area
  main=$(archive debian) security=$(archive debian-security)
  for area in "$main $1" "$main $1-updates" "$main $1-backports" "$security $1-security"; do
    if _has_release "$area"; then
      echo "deb $area main"
    elif [ $? -ne 4 ]; then
      die "cannot reach the archive: $area"
    fi
  done
}

# archive NAME: where apt here gets the archive of that name (debian, debian-security) from, else Debian's own.
archive() {
  local uri
  # shellcheck disable=SC2016 # apt's own variable
  uri=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep --max-count=1 --extended-regexp "/$1/?\$") ||
    uri=http://deb.debian.org/$1
  printf '%s' "${uri%/}"
}

# _has_release "URI SUITE": whether the archive has that release; 4 says it answered that it has not.
_has_release() {
  python3 - "${1% *}/dists/${1#* }/InRelease" <<'PY'
import sys, urllib.error, urllib.request
try:
    urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=20)
except urllib.error.HTTPError as error:
    sys.exit(4 if error.code == 404 else f"{sys.argv[1]}: {error}")
PY
}
