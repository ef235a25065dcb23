#!/usr/bin/env bash
# A real Kubernetes of one node on this host, without Docker: kubelet -> cri-proxy -> containerd.
#
#   hack/cluster.sh up       build missing programs, start, wait until the node is Ready   (as root)
#   hack/cluster.sh status   print whether it runs, and how to use it
#   hack/cluster.sh down     stop it and remove everything
#
# The first time, Kubernetes is built from its Go modules, which takes tens of minutes on two cores. The programs are
# kept in ${XDG_CACHE_HOME:-~/.cache}/cri-proxy. For the parts of a cluster, see hack/cluster/cluster.py.
set -euo pipefail

REPO_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
readonly REPO_ROOT
readonly PYTHON="${VENV:-$REPO_ROOT/.venv}/bin/python"

case "${1-}" in
up | status | down) ;;
-h | --help)
  sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit
  ;;
*)
  sed -n '2,/^set -e/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2
  exit 2
  ;;
esac

cd "$REPO_ROOT"
if [[ "$1" == up ]]; then
  [[ -n "${VENV-}" ]] || hack/prerequisites.sh cluster
fi
exec "$PYTHON" -m hack.cluster "$@"
