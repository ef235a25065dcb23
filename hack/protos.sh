#!/usr/bin/env bash
# Generate the protobuf messages with their type stubs:
#
#   api/cri/runtime/v1/api.proto   -> cri_proxy/cri/api_pb2.py         the CRI
#   api/containerd/api.proto       -> cri_proxy/containerd/api_pb2.py  a part of containerd's own API
#
#   hack/protos.sh            write the files
#   hack/protos.sh --check    write nothing; print the differences, and exit with 1 if there are any
#
# PYTHON is an interpreter with grpcio-tools and mypy-protobuf (default: .venv/bin/python if it exists, else python3).
# The generated files are committed, so both tools are pinned here: other versions generate different text, which
# needs another version of protobuf at run time.
set -euo pipefail

readonly GRPCIO_TOOLS=1.85.1
readonly MYPY_PROTOBUF=5.1.0

REPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly REPO_ROOT
readonly GENERATED=(api_pb2.py api_pb2.pyi)

case "${1-}" in
"") check=false ;;
--check) check=true ;;
*)
  echo "usage: hack/protos.sh [--check]" >&2
  exit 2
  ;;
esac

if [[ -z "${PYTHON-}" ]]; then
  PYTHON="$REPO_ROOT/.venv/bin/python"
  [[ -x "$PYTHON" ]] || PYTHON=python3
fi

version_of() {
  "$PYTHON" -c 'import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))' "$1" 2>/dev/null ||
    echo none
}

need() {
  local found
  found="$(version_of "$1")"
  if [[ "$found" != "$2" ]]; then
    echo "protos.sh: needs $1 $2, but $PYTHON has $found: run $PYTHON -m pip install $1==$2" >&2
    exit 2
  fi
}

need grpcio-tools "$GRPCIO_TOOLS"
need mypy-protobuf "$MYPY_PROTOBUF"

out="$(mktemp -d)"
cleanup() { rm -rf -- "$out"; }
trap cleanup EXIT

plugin="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/protoc-gen-mypy"
differs=false

# generate ROOT PROTO PACKAGE: PROTO is relative to ROOT, the root of its imports
generate() {
  local root="$REPO_ROOT/$1" proto="$2" package="$REPO_ROOT/$3" made="$out/$1" file
  mkdir -p "$made"
  "$PYTHON" -m grpc_tools.protoc \
    --proto_path="$root" \
    --python_out="$made" \
    --plugin="protoc-gen-mypy=$plugin" \
    --mypy_out="quiet:$made" \
    "$proto"
  for file in "${GENERATED[@]}"; do
    if $check; then
      diff -u "$package/$file" "$made/$(dirname "$proto")/$file" || differs=true
    else
      install -m 0644 "$made/$(dirname "$proto")/$file" "$package/$file"
    fi
  done
}

generate api/cri runtime/v1/api.proto cri_proxy/cri
generate api containerd/api.proto cri_proxy/containerd

if $differs; then
  echo "protos.sh: the generated messages differ from their api.proto: run hack/protos.sh and commit" >&2
  exit 1
fi
