#!/usr/bin/env bash
# Unpack other versions of containerd and runc than the system's, without installing them; print their directories.
#
#   hack/runtimes.sh           all of them, one per line
#   hack/runtimes.sh 1.7       containerd 1.7, with the system's runc
#   hack/runtimes.sh 2         the newest containerd 2, with a runc that supports user namespaces
#
#   $CRI_PROXY_CACHE/runtimes/1.7/usr/bin    for the variable TESTBED_BINARIES, see hack/testbed/binaries.py
#   $CRI_PROXY_CACHE/runtimes/2/usr/bin
#
# The packages are Debian's. apt downloads and verifies them with a separate configuration: the Debian source in the
# machine's configuration, with another suite. Nothing is installed, apt's own lists are not changed, and root is not
# needed. Existing directories are complete and are kept: delete one to get a newer version. The default of
# CRI_PROXY_CACHE is ~/.cache/cri-proxy. The machine must have a Debian source.
#
# Programs of a newer suite need that suite's C library. Its path in the same directory is written into the programs: a
# wrapper would not suffice, because runc restarts itself as /proc/self/exe.
set -euo pipefail

readonly CACHE="${CRI_PROXY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cri-proxy}/runtimes"
readonly SUITE_OF_17=trixie # Debian 13
readonly SUITE_OF_2=sid

say() { echo "runtimes: $*" >&2; }

fail() {
  echo "runtimes: $*" >&2
  exit 1
}

usage() {
  sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

staged=""
log="$(mktemp)"
cleanup() {
  rm -f -- "$log"
  [[ -z "$staged" ]] || rm -rf -- "$staged"
}
trap cleanup EXIT

# Run a command; print its output only if it fails.
quietly() {
  "$@" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    return 1
  }
}

# --- Packages --------------------------------------------------------------------------------------------------------

# Print the URL of the Debian archive (not of its security updates) in this machine's configuration.
archive() {
  # shellcheck disable=SC2016  # apt's variables
  apt-get indextargets --format '$(SITE) $(RELEASE) $(REPO_URI) $(ORIGIN)' 'Created-By: Packages' |
    awk '$4 == "Debian" && $2 !~ /-security|-updates|-backports/ {print $3; exit}'
}

# Run apt for one suite with the machine's download configuration, but with lists, state and cache in $staged.
apt_of_suite() {
  quietly apt-get -o Dir::Etc::SourceList="$staged/sources.list" -o Dir::Etc::SourceParts=- \
    -o Dir::State="$staged/state" -o Dir::State::status="$staged/status" -o Dir::Cache="$staged/cache" \
    -o Dir::Etc::Preferences=- -o Dir::Etc::PreferencesParts=- -o APT::Sandbox::User= \
    -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

# Download `packages` of `suite` to $staged/packages.
fetch() {
  local suite="$1" uri
  shift
  uri="$(archive)"
  if [[ -z "$uri" && "$(id -u)" == 0 ]]; then # a machine whose lists were never fetched
    quietly apt-get update || say "could not update all package lists; continuing with the existing ones"
    uri="$(archive)"
  fi
  [[ -n "$uri" ]] || fail "apt has no Debian source: add one, then run apt-get update"
  mkdir -p "$staged/state/lists/partial" "$staged/cache/archives/partial" "$staged/packages"
  : >"$staged/status"
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=""
  [[ ! -r "$keyring" ]] || signed="[signed-by=$keyring] "
  echo "deb ${signed}${uri} $suite main" >"$staged/sources.list"
  apt_of_suite update || fail "could not download the package list of $suite: fix the error above"
  (cd "$staged/packages" && apt_of_suite download "$@") ||
    fail "could not download $* of $suite: fix the error above"
}

unpack() {
  local package
  for package in "$staged"/packages/*.deb; do
    quietly dpkg-deb --extract "$package" "$1"
  done
}

# Move the directory that was built in $staged to its final place.
commit() {
  rm -rf -- "${CACHE:?}/$1"
  mv -- "$staged/root" "$CACHE/$1"
  rm -rf -- "$staged"
  staged=""
}

begin() {
  command -v apt-get dpkg-deb >/dev/null || fail "apt-get or dpkg-deb is missing: only Debian packages are supported"
  mkdir -p "$CACHE"
  staged="$(mktemp -d "$CACHE/.stage-XXXXXX")"
  chmod 755 "$staged"
  mkdir "$staged/root"
}

# --- The runtimes ----------------------------------------------------------------------------------------------------

make_17() {
  begin
  fetch "$SUITE_OF_17" containerd
  unpack "$staged/root"
  commit 1.7
}

make_2() {
  begin
  # First patchelf, of the suite that this machine runs.
  (
    cd "$staged" && mkdir patchelf && cd patchelf
    quietly apt-get -o APT::Sandbox::User= download patchelf
    quietly dpkg-deb --extract patchelf_*.deb .
  ) || fail "could not download patchelf: run apt-get update, then this again"
  fetch "$SUITE_OF_2" containerd runc libc6 libseccomp2
  unpack "$staged/root"
  local bin="$staged/root/usr/bin" patchelf="$staged/patchelf/usr/bin/patchelf" libraries loader program
  [[ -x "$bin/runc" ]] || mv -- "$staged/root/usr/sbin/runc" "$bin/runc"
  libraries="$(dirname "$(find "$staged/root/usr/lib" -name libc.so.6)")"
  loader="$(basename "$("$patchelf" --print-interpreter "$bin/runc")")"
  local in_place="$CACHE/2${libraries#"$staged/root"}"
  for program in "$bin"/*; do
    quietly "$patchelf" --set-rpath "$in_place" --set-interpreter "$in_place/$loader" "$program"
  done
  commit 2
}

# Make one if it is missing, and print its directory; a lock ensures that only one process makes it.
provide() {
  local name="$1" make="$2"
  mkdir -p "$CACHE"
  exec {lock}>"$CACHE/.lock"
  flock "$lock"
  if [[ ! -d "$CACHE/$name" ]]; then
    say "unpacking containerd $name"
    "$make"
  fi
  exec {lock}>&-
  "$CACHE/$name/usr/bin/containerd" --version >&2 ||
    fail "$CACHE/$name does not run on this machine: delete it, and report a bug"
  echo "$CACHE/$name/usr/bin"
}

(($# > 0)) || set -- 1.7 2
for name in "$@"; do
  case "$name" in
  1.7) provide 1.7 make_17 ;;
  2) provide 2 make_2 ;;
  -h | --help)
    usage
    exit
    ;;
  *)
    usage >&2
    exit 2
    ;;
  esac
done
