#!/usr/bin/env bash
# Unpack other versions of containerd and runc than the system's, beside it; print where their programs are.
#
#   hack/runtimes.sh           all of them, a line each
#   hack/runtimes.sh 1.7       containerd 1.7, with the system's runc
#   hack/runtimes.sh 2         the newest containerd 2, with a runc that knows user namespaces
#
#   $CRI_PROXY_CACHE/runtimes/1.7/usr/bin    for the variable TESTBED_BINARIES, see hack/testbed/binaries.py
#   $CRI_PROXY_CACHE/runtimes/2/usr/bin
#
# The packages are Debian's. apt fetches and verifies them, by a configuration of its own: the source of Debian in the
# machine's configuration, another suite in it. Nothing is installed, apt's own lists are not touched, and no rights of
# root are needed. What is in place is whole, and is used as long as it is there: remove the directory for a newer one.
# CRI_PROXY_CACHE is ~/.cache/cri-proxy if it is not set. A machine without a source of Debian gets none of this.
#
# Programs of a newer suite want that suite's C library. They get it from the same place, by a path in the program: a
# wrapper would not do, since runc starts itself again as /proc/self/exe.
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

# Run a command; what it says is of interest only if it fails.
quietly() {
  "$@" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    return 1
  }
}

# --- Packages --------------------------------------------------------------------------------------------------------

# Print the address of Debian's own archive (not of its security updates) that this machine is configured with.
archive() {
  # shellcheck disable=SC2016  # apt's variables
  apt-get indextargets --format '$(SITE) $(RELEASE) $(REPO_URI) $(ORIGIN)' 'Created-By: Packages' |
    awk '$4 == "Debian" && $2 !~ /-security|-updates|-backports/ {print $3; exit}'
}

# Run apt for one suite, with nothing of its own but the means to fetch: lists, state and cache are in $staged.
apt_of_suite() {
  quietly apt-get -o Dir::Etc::SourceList="$staged/sources.list" -o Dir::Etc::SourceParts=- \
    -o Dir::State="$staged/state" -o Dir::State::status="$staged/status" -o Dir::Cache="$staged/cache" \
    -o Dir::Etc::Preferences=- -o Dir::Etc::PreferencesParts=- -o APT::Sandbox::User= \
    -o Acquire::Languages=none -o Acquire::Retries=3 "$@"
}

# Make `packages` of `suite` ready in $staged/packages.
fetch() {
  local suite="$1" uri
  shift
  uri="$(archive)"
  if [[ -z "$uri" && "$(id -u)" == 0 ]]; then # a machine whose lists were never fetched
    quietly apt-get update || say "not all package lists could be renewed; going on with those that are there"
    uri="$(archive)"
  fi
  [[ -n "$uri" ]] || fail "apt knows no archive of Debian here: add one to its sources, then run apt-get update"
  mkdir -p "$staged/state/lists/partial" "$staged/cache/archives/partial" "$staged/packages"
  : >"$staged/status"
  local keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=""
  [[ ! -r "$keyring" ]] || signed="[signed-by=$keyring] "
  echo "deb ${signed}${uri} $suite main" >"$staged/sources.list"
  apt_of_suite update || fail "the list of $suite's packages could not be fetched; mend what apt says above"
  (cd "$staged/packages" && apt_of_suite download "$@") ||
    fail "$* of $suite could not be fetched; mend what apt says above"
}

unpack() {
  local package
  for package in "$staged"/packages/*.deb; do
    quietly dpkg-deb --extract "$package" "$1"
  done
}

# Put the directory that was made in $staged in its place.
commit() {
  rm -rf -- "${CACHE:?}/$1"
  mv -- "$staged/root" "$CACHE/$1"
  rm -rf -- "$staged"
  staged=""
}

begin() {
  command -v apt-get dpkg-deb >/dev/null || fail "only Debian's own packages are known: apt-get or dpkg-deb is missing"
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
  # patchelf first, of the suite that runs here.
  (
    cd "$staged" && mkdir patchelf && cd patchelf
    quietly apt-get -o APT::Sandbox::User= download patchelf
    quietly dpkg-deb --extract patchelf_*.deb .
  ) || fail "patchelf could not be fetched; run apt-get update, then this again"
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

# Make one if it is not there, and print where it is; only one process makes it.
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
  "$CACHE/$name/usr/bin/containerd" --version >&2 || fail "$CACHE/$name does not run here: remove it, and tell"
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
