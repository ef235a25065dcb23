#!/usr/bin/env bash
# A cluster in Docker whose nodes have cri-proxy, to try it out and to test changes.
#
#   hack/kind.sh up      build the node image from dist/ (see make dist), create the cluster
#   hack/kind.sh demo    two services without images: apply manifests/demo, get a quote from the web application
#   hack/kind.sh down    delete the cluster and the node image
#
# Needs docker, kind and kubectl. KIND_NAME is the name of the cluster (default: cri-proxy), KIND_NODE the base image of
# the nodes.
set -euo pipefail

REPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly REPO_ROOT
readonly NAME="${KIND_NAME:-cri-proxy}"
readonly NODE="${KIND_NODE:-kindest/node:v1.34.0}"
readonly IMAGE="cri-proxy/node:$NAME"
readonly TIMEOUT=5m

say() { echo "kind: $*"; }

fail() {
  echo "kind: $*" >&2
  exit 1
}

usage() {
  sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

need() {
  local program
  for program in "$@"; do
    command -v "$program" >/dev/null || fail "$program is missing: install it, then run this again"
  done
}

forward=""
cleanup() {
  [[ -z "$forward" ]] || kill "$forward" 2>/dev/null || true
}
trap cleanup EXIT

kubectl_() { kubectl --context "kind-$NAME" "$@"; }

# On failure, print the relevant logs.
explain() {
  kubectl_ get nodes,pods --all-namespaces -o wide || true
  docker exec "$NAME-control-plane" journalctl --no-pager --lines 40 --unit cri-proxy --unit kubelet || true
}

up() {
  need docker kind kubectl
  compgen -G "$REPO_ROOT/dist/cri-proxy-*-linux-*.tar.gz" >/dev/null ||
    fail "no release in dist/: run make dist, or put a released cri-proxy-VERSION-linux-ARCH.tar.gz there"
  docker build --file "$REPO_ROOT/manifests/kind/Dockerfile" --build-arg "NODE=$NODE" --tag "$IMAGE" "$REPO_ROOT"
  kind create cluster --name "$NAME" --image "$IMAGE" --config "$REPO_ROOT/manifests/kind/cluster.yaml" --wait "$TIMEOUT" || {
    explain
    fail "the cluster did not start: see the logs of its node above"
  }
  kubectl_ apply --kustomize "$REPO_ROOT/manifests/kind"
  say "the cluster is ready: use kubectl --context kind-$NAME, or run hack/kind.sh demo"
}

demo() {
  need kubectl
  kubectl_ apply --kustomize "$REPO_ROOT/manifests/demo"
  local each
  for each in redis quotes; do
    kubectl_ rollout status "deployment/$each" --timeout "$TIMEOUT" || {
      kubectl_ describe pods --selector "app=$each"
      fail "$each did not start: see its events above"
    }
  done
  local log port
  log="$(mktemp)"
  kubectl_ port-forward service/quotes :3000 >"$log" &
  forward=$!
  for _ in {1..100}; do
    port="$(sed -n 's/^Forwarding from 127\.0\.0\.1:\([0-9]*\).*/\1/p' "$log")"
    [[ -z "$port" ]] || break
    sleep 0.1
  done
  rm -f -- "$log"
  [[ -n "$port" ]] || fail "could not forward a port to the web application"
  say "GET /quotes"
  curl --fail --silent --show-error --max-time 30 "http://127.0.0.1:$port/quotes"
}

down() {
  need docker kind
  kind delete cluster --name "$NAME"
  docker image rm --force "$IMAGE" >/dev/null 2>&1 || true
}

case "${1-}" in
up | demo | down) "$1" ;;
-h | --help) usage ;;
*)
  usage >&2
  exit 2
  ;;
esac
