#!/bin/sh
# What the installer's container does on its node: put cri-proxy there and have it install itself, or take it off.
#
#   install.sh install | uninstall
#
# /cri-proxy        the unpacked distribution, in this image
# /host/opt, /host/etc  the node's own directories
# /settings         config.toml and prewarm.txt, from the ConfigMap
#
# The distribution is laid below /opt on the node and started there, in the namespaces of the node's process 1, where it
# speaks to systemd, keeps a release of itself and restarts kubelet. This container survives that, as every container
# does. What was laid goes again; what it installed stays.
set -eu

image=${IMAGE_ROOT:-/cri-proxy}
host=${HOST_ROOT:-/host}
settings=${SETTINGS:-/settings}
done=${DONE:-/tmp/done}

say() { echo "installer: $*"; }

# Run on the node itself.
on_node() { ${ON_NODE-nsenter -t 1 -m -u -i -n -p --} "$@"; }

# Have the distribution of this image do something on the node.
with_program() {
  rm -rf "$host/opt/.cri-proxy-installer"
  cp -a "$image" "$host/opt/.cri-proxy-installer"
  on_node /opt/.cri-proxy-installer/bin/cri-proxy "$@"
  rm -rf "$host/opt/.cri-proxy-installer"
}

# Write a setting file only if it is another, so that an unchanged one restarts nothing.
settle() {
  mkdir -p "$(dirname "$2")"
  if ! cmp -s "$1" "$2"; then
    cp "$1" "$2.new"
    mv "$2.new" "$2"
    say "wrote ${2#"$host"}"
  fi
}

case "${1-}" in
install)
  settle "$settings/config.toml" "$host/etc/cri-proxy/config.toml"
  settle "$settings/prewarm.txt" "$host/etc/cri-proxy/prewarm.d/cluster"
  with_program install
  say "cri-proxy is on this node"
  ;;
uninstall)
  with_program uninstall
  rm -rf "$host/etc/cri-proxy"
  say "cri-proxy is off this node"
  ;;
*)
  sed -n '2,4p' "$0" >&2
  exit 2
  ;;
esac

touch "$done"
# Nothing left to do but to be there; a signal ends it at once.
trap 'exit 0' TERM INT
while :; do sleep 3600 & wait $!; done
