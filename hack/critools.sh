#!/usr/bin/env bash
# Build crictl and critest of sigs.k8s.io/cri-tools; print their directories.
#
#   hack/critools.sh            every version that the tests use
#   hack/critools.sh v1.36.0    this version
#
#   $CRI_PROXY_CACHE/cri-tools/v1.36.0/crictl     a command-line client for the CRI
#   $CRI_PROXY_CACHE/cri-tools/v1.36.0/critest    Kubernetes' tests for container runtimes
#
# Needs go and a module proxy. Existing programs are kept. The default of CRI_PROXY_CACHE is ~/.cache/cri-proxy. One
# package is compiled at a time, at low priority, which takes some minutes.
set -euo pipefail

readonly CACHE="${CRI_PROXY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cri-proxy}/cri-tools"
readonly MODULE=sigs.k8s.io/cri-tools
readonly VERSIONS=(v1.30.0 v1.36.0) # as hack/testbed/critools.py has them

fail() {
  echo "critools: $*" >&2
  exit 1
}

usage() {
  sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

staged=""
cleanup() { [[ -z "$staged" ]] || rm -rf -- "$staged"; }
trap cleanup EXIT

# Print the directory in which go has unpacked the module. It is built there as the main module, because `go install` of
# a version lists the available versions, which not every module proxy supports.
source_of() {
  local cached
  cached="$(go env GOMODCACHE)/$MODULE@$1"
  [[ -d "$cached" ]] || (cd "$staged" && go mod download "$MODULE@$1") ||
    fail "could not download $MODULE@$1: set GOPROXY to a module proxy"
  echo "$cached"
}

build() {
  local version="$1" source
  [[ -x "$CACHE/$version/crictl" && -x "$CACHE/$version/critest" ]] && return
  command -v go >/dev/null || fail "go is missing: install a recent version of Go"
  mkdir -p "$CACHE"
  staged="$(mktemp -d "$CACHE/.stage-XXXXXX")"
  source="$(source_of "$version")"
  cp -r --no-preserve=mode "$source" "$staged/source"
  mkdir "$staged/made"
  echo "critools: building $version" >&2
  (
    cd "$staged/source"
    rm -rf vendor
    export CGO_ENABLED=0 GOFLAGS="-p=1 -mod=readonly -buildvcs=false -trimpath"
    local -a flags=(-ldflags "-s -w -X $MODULE/pkg/version.Version=${version#v}")
    nice -n 15 go build "${flags[@]}" -o "$staged/made/crictl" ./cmd/crictl
    nice -n 15 go test -c "${flags[@]}" -o "$staged/made/critest" ./cmd/critest
  ) || fail "could not build $version: fix the error above"
  rm -rf -- "${CACHE:?}/$version"
  mv -- "$staged/made" "$CACHE/$version"
  rm -rf -- "$staged"
  staged=""
}

(($# > 0)) || set -- "${VERSIONS[@]}"
for version in "$@"; do
  case "$version" in
  v[0-9]*.[0-9]*.[0-9]*)
    build "$version"
    echo "$CACHE/$version"
    ;;
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
