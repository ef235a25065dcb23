#!/usr/bin/env bash
# Generate the CRI's messages: api/cri/runtime/v1/api.proto -> cri_proxy/cri/api_pb2.py and its typed stub.
#
#   hack/protos.sh            write both files
#   hack/protos.sh --check    write nothing; print what differs, exit 1 if something does
#
# PYTHON names the interpreter that has grpcio-tools and mypy-protobuf (default: .venv/bin/python if it is there,
# else python3). The generated files are committed, so both tools are pinned here: another version writes other
# text, and its messages ask for another protobuf at run time.
set -euo pipefail

readonly GRPCIO_TOOLS=1.85.1
readonly MYPY_PROTOBUF=5.1.0

REPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly REPO_ROOT
readonly PACKAGE="$REPO_ROOT/cri_proxy/cri"
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
    echo "protos.sh: needs $1 $2, $PYTHON has $found; install it: $PYTHON -m pip install $1==$2" >&2
    exit 2
  fi
}

need grpcio-tools "$GRPCIO_TOOLS"
need mypy-protobuf "$MYPY_PROTOBUF"

out="$(mktemp -d)"
cleanup() { rm -rf -- "$out"; }
trap cleanup EXIT

plugin="$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/protoc-gen-mypy"
"$PYTHON" -m grpc_tools.protoc \
  --proto_path="$REPO_ROOT/api/cri" \
  --python_out="$out" \
  --plugin="protoc-gen-mypy=$plugin" \
  --mypy_out="quiet:$out" \
  runtime/v1/api.proto

differs=false
for file in "${GENERATED[@]}"; do
  if $check; then
    diff -u "$PACKAGE/$file" "$out/runtime/v1/$file" || differs=true
  else
    install -m 0644 "$out/runtime/v1/$file" "$PACKAGE/$file"
  fi
done

if $differs; then
  echo "protos.sh: the generated messages do not follow api.proto: run hack/protos.sh and commit" >&2
  exit 1
fi
