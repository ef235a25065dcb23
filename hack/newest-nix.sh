#!/usr/bin/env bash
# Unpack Debian's newest Nix without installing it, for tests.
#
#   hack/newest-nix.sh DIRECTORY
#   TESTBED_NIX=DIRECTORY/bin python -m pytest tests/store
#
# It is downloaded from the mirror in apt's configuration, and runs with the libraries of its own
# release.
set -euo pipefail

SUITE=sid
if [ $# -ne 1 ]; then
    sed -n '2,8p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2
    exit 2
fi
mkdir -p "$1"
directory=$(cd "$1" && pwd)
log=$directory/log
explain() {
    [ $? -eq 0 ] || tail -20 "$log" >&2
}
trap explain EXIT

mkdir -p "$directory"/{etc,lists/partial,cache/archives/partial,debs,root,bin}
: >"$directory/status"
# shellcheck disable=SC2016 # expanded by apt-get
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keyring] $mirror $SUITE main" >"$directory/etc/sources.list"
options=(
    -o "Dir::Etc=$directory/etc" -o "Dir::State::lists=$directory/lists"
    -o "Dir::Cache=$directory/cache" -o "Dir::State::status=$directory/status"
)
apt-get "${options[@]}" update >"$log" 2>&1
mapfile -t packages < <(
    apt-get "${options[@]}" install --simulate --no-install-recommends nix-bin 2>>"$log" |
        awk '/^Inst/ { print $2 }'
)
(cd "$directory/debs" && apt-get "${options[@]}" download "${packages[@]}" >>"$log" 2>&1)
for package in "$directory"/debs/*.deb; do
    dpkg-deb --extract "$package" "$directory/root"
done
libraries=$directory/root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH 2>>"$log" || gcc -dumpmachine)
linker=$(echo "$libraries"/ld-linux*)
cat >"$directory/bin/nix-store" <<EOF
#!/bin/sh
exec "$linker" --argv0 nix-store --library-path "$libraries" "$directory/root/usr/bin/nix-store" "\$@"
EOF
chmod +x "$directory/bin/nix-store"
"$directory/bin/nix-store" --version
