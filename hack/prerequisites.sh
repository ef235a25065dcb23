#!/usr/bin/env bash
# Install the missing prerequisites for working on cri-proxy.
#
#   hack/prerequisites.sh           Python, and the project with its tools in .venv
#   hack/prerequisites.sh verify    also shellcheck
#   hack/prerequisites.sh demo      also the programs for pods: containerd, runc, CNI plugins, busybox, bash, ip
#   hack/prerequisites.sh test      all of these, and nix, git, xz and a browser; as root also the other runtimes of
#                                   hack/runtimes.sh, in a cache outside this tree
#   hack/prerequisites.sh install   the programs for pods, and debootstrap, for test machines
#   hack/prerequisites.sh cluster   the same, and Go to build Kubernetes (see below)
#
# Programs are installed with apt (Debian 12 or newer, Ubuntu 24.04 or newer), which needs root; existing programs from
# any source are used as they are. Python packages are installed with pip, in the versions of hack/constraints.txt, if
# pyproject.toml, that file or the interpreter has changed. PYTHON is the preferred interpreter. If the distribution's
# Go is too old, install Go yourself.
#
# With systemd, Debian's containerd package starts containerd.service. The project does not use, stop or configure that
# service; you can disable it with `systemctl disable --now containerd`.
set -euo pipefail

REPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly REPO_ROOT
readonly VENV="$REPO_ROOT/.venv"
readonly CONSTRAINTS="$REPO_ROOT/hack/constraints.txt"
readonly CNI_DIRECTORIES=(/usr/lib/cni /opt/cni/bin /usr/libexec/cni)
export PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { echo "prerequisites: $*"; }

fail() {
  echo "prerequisites: $*" >&2
  exit 1
}

usage() {
  sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

log="$(mktemp)"
cleanup() { rm -f -- "$log"; }
trap cleanup EXIT

# Run a command; print its output only if it fails.
quietly() {
  "$@" >"$log" 2>&1 || {
    tail -n 40 "$log" >&2
    return 1
  }
}

# --- Missing prerequisites -------------------------------------------------------------------------------------------

has_program() { command -v "$1" >/dev/null; }

has_browser() {
  has_program chromium || has_program chromium-browser
}

has_static_program() {
  local program
  program="$(command -v "$1")" && ! ldd "$program" 2>&1 | grep -q -e '=>' -e '/ld-'
}

# Return whether Kubernetes has been built already, so that Go is not needed.
is_built() {
  local version
  version="$(sed -n 's,^require k8s.io/kubernetes \(v[^ ]*\)$,\1,p' "$REPO_ROOT/hack/cluster/go.mod")"
  [[ -x "${XDG_CACHE_HOME:-$HOME/.cache}/cri-proxy/kubernetes/$version/kube-scheduler" ]]
}

has_go() {
  local version
  version="$(go env GOVERSION 2>/dev/null)" && [[ "$(printf '%s\n' go1.24 "$version" | sort -V | head -n 1)" == go1.24 ]]
}

has_cni_plugins() {
  local directory
  for directory in "${CNI_DIRECTORIES[@]}"; do
    [[ -x "$directory/bridge" && -x "$directory/host-local" && -x "$directory/loopback" ]] && return
  done
  return 1
}

# Print the first interpreter that is new enough and can make virtual environments.
python() {
  local candidate
  for candidate in "${PYTHON-}" python3 python3.14 python3.13 python3.12 python3.11 /usr/bin/python3; do
    [[ -n "$candidate" ]] || continue
    if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

missing=()
need() {
  local package="$1"
  shift
  "$@" >/dev/null || missing+=("$package")
}

find_missing() {
  missing=()
  python >/dev/null || missing+=(python3 python3-venv)
  if [[ -n "${wants[verify]-}" ]]; then
    need shellcheck has_program shellcheck
  fi
  if [[ -n "${wants[demo]-}" ]]; then
    need containerd has_program containerd
    need runc has_program runc
    need containernetworking-plugins has_cni_plugins
    need busybox-static has_static_program busybox
    need bash-static has_program bash-static
    need iproute2 has_program ip
  fi
  if [[ -n "${wants[test]-}" ]]; then
    need nix-bin has_program nix-store
    need git has_program git
    need xz-utils has_program xz
    need chromium has_browser
  fi
  if [[ -n "${wants[install]-}" || -n "${wants[cluster]-}" ]]; then
    need debootstrap has_program debootstrap
  fi
  if [[ -n "${wants[cluster]-}" ]]; then
    need util-linux has_program unshare
    is_built || need golang-go has_go
  fi
}

# --- Programs --------------------------------------------------------------------------------------------------------

is_apt_machine() {
  [[ -r /etc/os-release ]] || return 1
  local ID="" ID_LIKE="" VERSION_ID=""
  # shellcheck source=/dev/null
  . /etc/os-release
  case "$ID" in
  debian) [[ "${VERSION_ID:-99}" -ge 12 ]] ;; # testing and unstable have no number
  *) [[ " $ID $ID_LIKE " == *" debian "* ]] ;;
  esac && has_program apt-get
}

install_programs() {
  find_missing
  ((${#missing[@]})) || return 0
  local command="apt-get install --yes --no-install-recommends ${missing[*]}"
  is_apt_machine || fail "missing: ${missing[*]} (Debian's names of the packages); they are installed by apt only on" \
    "Debian 12, Ubuntu 24.04 or newer: install them with your system's package manager, then run this again"
  [[ "$(id -u)" == 0 ]] || fail "missing: ${missing[*]}; run this again as root, or run as root: $command"
  say "installing ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  quietly apt-get update || say "could not update all package lists; continuing with the existing ones"
  # shellcheck disable=SC2086  # the words of the command line above
  quietly $command || fail "apt could not install ${missing[*]}: fix the error above, then run: $command"
  find_missing
  ((${#missing[@]} == 0)) || fail "still missing after the installation: ${missing[*]}; this release may be too old"
}

# --- Python packages -------------------------------------------------------------------------------------------------

install_packages() {
  local interpreter wanted
  interpreter="$(python)"
  wanted="$(
    "$interpreter" -VV
    echo "$REPO_ROOT"
    sha256sum <"$REPO_ROOT/pyproject.toml"
    sha256sum <"$CONSTRAINTS"
  )"
  if [[ -r "$VENV/.installed" && "$(<"$VENV/.installed")" == "$wanted" ]] && "$VENV/bin/python" -c ''; then
    return
  fi
  say "installing the project and its tools into .venv ($("$interpreter" -V))"
  rm -f -- "$VENV/.installed"
  local then_retry="then run this again (for a mirror of PyPI, set PIP_INDEX_URL and PIP_CERT)"
  quietly "$interpreter" -m venv --clear "$VENV" || fail "could not create a virtual environment in .venv"
  local -a pip=("$VENV/bin/python" -m pip --disable-pip-version-check install --constraint "$CONSTRAINTS")
  quietly "${pip[@]}" --upgrade pip setuptools || fail "pip could not update itself: fix the error above, $then_retry"
  cd "$REPO_ROOT"
  # Without isolation, so that the build uses the setuptools of the constraints.
  quietly "${pip[@]}" --no-build-isolation --editable . --group dev ||
    fail "pip could not install the project's packages: fix the error above, $then_retry"
  echo "$wanted" >"$VENV/.installed"
}

declare -A wants=()
for set in "$@"; do
  case "$set" in
  verify | demo) wants[$set]=yes ;;
  install) wants+=([demo]=yes [install]=yes) ;;
  cluster) wants+=([demo]=yes [cluster]=yes) ;;
  test) wants+=([verify]=yes [demo]=yes [test]=yes) ;;
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

# Only a few tests need the other runtimes, and report if they are missing: a failure must not block the rest.
install_runtimes() {
  is_apt_machine && [[ "$(id -u)" == 0 ]] || return 0
  quietly "$REPO_ROOT/hack/runtimes.sh" || say "continuing without other runtimes: run hack/runtimes.sh for the error"
}

install_programs
install_packages
[[ -z "${wants[test]-}" ]] || install_runtimes
