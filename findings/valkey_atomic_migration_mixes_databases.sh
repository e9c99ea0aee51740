#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Valkey 9.1.2 (Debian's package of the suite forky) with `cluster-databases` above 1: while a slot is moved by CLUSTER MIGRATESLOTS, which
# is what `valkey-cli --cluster-use-atomic-slot-migration` sends, acknowledged writes to database 0 land in another database of the new owner:
# in the one whose keys were copied last. The migration ends with `success`, and no client gets an error.
# Writes are where they belong if database 0 alone has keys of the slot.
# Whoever has several databases moves slots key by key (MIGRATE), or while nobody writes.
set -euo pipefail

folder=$(mktemp -d)
servers=()
finish() {
  [ ${#servers[@]} -eq 0 ] || kill "${servers[@]}" 2> /dev/null || true
  wait
  rm -rf "$folder"
}
trap finish EXIT

# The packages and all that they need, C library included, from where apt here gets Debian; unpacked only.
mkdir -p "$folder"/apt/lists/partial "$folder"/apt/archives/partial "$folder/root"
: > "$folder/apt/status"
# shellcheck disable=SC2016 # apt's own variable
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep --max-count=1 --extended-regexp '/debian/?$')
echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive forky main" > "$folder/apt/sources.list"
own() {
  apt-get -qq --option Dir::Etc::SourceList="$folder/apt/sources.list" --option Dir::Etc::SourceParts=/dev/null \
    --option Dir::Etc::PreferencesParts=/dev/null --option Dir::State::Lists="$folder/apt/lists" --option Dir::State::Status="$folder/apt/status" \
    --option Dir::Cache="$folder/apt" --option APT::Sandbox::User=root --option APT::Install-Recommends=false "$@"
}
own update
own --yes --download-only install 'valkey-server=9.1.2*' 'valkey-tools=9.1.2*' > /dev/null
for package in "$folder"/apt/archives/*.deb; do
  dpkg-deb --extract "$package" "$folder/root"
done
libraries=$(dirname "$(find "$folder/root/usr" -name 'libc.so.6' -print -quit)")
loader=$(find "$folder/root/usr" -name 'ld-linux*.so.*' -print -quit)
program() { # NAME ARGUMENTS
  exec "$loader" --library-path "$libraries:$folder/root/usr/lib" "$folder/root/usr/bin/$1" "${@:2}"
}
cli() { (program valkey-cli -p "$@"); }
(program valkey-server --version)

ports=(17431 17432 17433)
for port in "${ports[@]}"; do
  mkdir "$folder/$port"
  (program valkey-server --port "$port" --bind 127.0.0.1 --dir "$folder/$port" --cluster-enabled yes --cluster-databases 2 --save '') \
    > "$folder/$port/log" &
  servers+=($!)
done
for port in "${ports[@]}"; do
  until [ "$(cli "$port" PING 2> /dev/null)" = PONG ]; do kill -0 "${servers[@]}"; done
done
(program valkey-cli --cluster create "${ports[@]/#/127.0.0.1:}" --cluster-yes) > "$folder/create"
for port in "${ports[@]}"; do
  until [[ $(cli "$port" CLUSTER INFO) == *cluster_state:ok* ]]; do kill -0 "${servers[@]}"; done
done

moved() { # TAG DATABASE...: move the slot of {TAG}, with keys in these databases, under a writer to database 0; says what the new owner has
  local tag=$1 database port from to='' slot jobs='' right wrong acknowledged writer
  slot=$(cli "${ports[0]}" CLUSTER KEYSLOT "{$tag}")
  for port in "${ports[@]}"; do
    if [[ $(cli "$port" GET "{$tag}") == MOVED* ]]; then to=$port; else from=$port; fi
  done
  for database in "${@:2}"; do
    seq 1 50000 | sed "s/.*/SET {$tag}old& &/" | cli "$from" -n "$database" > "$folder/filled"
  done
  # One write after the other, until the slot is elsewhere.
  : > "$folder/replies"
  (program valkey-cli -p "$from") < <(seq 1 5000000 | sed "s/.*/SET {$tag}new& &/") > "$folder/replies" 2>&1 &
  writer=$!
  until grep --quiet OK "$folder/replies"; do kill -0 "$writer"; done
  cli "$from" CLUSTER MIGRATESLOTS SLOTSRANGE "$slot" "$slot" NODE "$(cli "$to" CLUSTER MYID)" > /dev/null
  until [[ $jobs == *success* ]]; do
    [[ $jobs != *failed* && $jobs != *cancel* ]]
    jobs=$(cli "$from" CLUSTER GETSLOTMIGRATIONS | grep --after-context=20 "$slot-$slot" || true)
  done
  until grep --quiet MOVED "$folder/replies"; do kill -0 "$writer"; done
  kill "$writer"
  wait "$writer" || true
  acknowledged=$(grep --count '^OK' "$folder/replies")
  right=$(cli "$to" -n 0 --scan --pattern "{$tag}new*" | wc -l)
  wrong=$(cli "$to" -n 1 --scan --pattern "{$tag}new*" | wc -l)
  echo "keys in database ${*:2}: $acknowledged writes to database 0 acknowledged, of them $right in database 0 and $wrong in database 1"
  lost=$((acknowledged - right)) strayed=$wrong
}

moved a 0
[ "$lost" -le 0 ] && [ "$strayed" = 0 ]
moved b 0 1
[ "$lost" -gt 0 ] && [ "$strayed" -gt 0 ]
