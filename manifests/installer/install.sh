#!/bin/sh
# What the installer's container does on its node: put cri-proxy there and have it install itself, or take it off.
#
#   install.sh install | uninstall
#
# /cri-proxy        the unpacked distribution, in this image
# /host/opt, /host/etc  the node's own directories
# /settings         config.toml and prewarm.txt, from the ConfigMap
#
# The program is copied to /opt/cri-proxy on the node and started there, in the namespaces of the node's process 1: it
# speaks to systemd and restarts kubelet. This container survives that, as every container does.
set -eu

image=${IMAGE_ROOT:-/cri-proxy}
host=${HOST_ROOT:-/host}
settings=${SETTINGS:-/settings}
done=${DONE:-/tmp/done}

say() { echo "installer: $*"; }

# Run on the node itself.
on_node() { ${ON_NODE-nsenter -t 1 -m -u -i -n -p --} "$@"; }

# Copy the distribution beside its place and rename it there: what is in place is whole.
place() {
  rm -rf "$host/opt/.cri-proxy.new" "$host/opt/.cri-proxy.old"
  cp -a "$image" "$host/opt/.cri-proxy.new"
  if [ -e "$host/opt/cri-proxy" ]; then
    mv "$host/opt/cri-proxy" "$host/opt/.cri-proxy.old"
  fi
  mv "$host/opt/.cri-proxy.new" "$host/opt/cri-proxy"
  rm -rf "$host/opt/.cri-proxy.old"
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
  place
  on_node /opt/cri-proxy/bin/cri-proxy install
  say "cri-proxy is on this node"
  ;;
uninstall)
  if [ -e "$host/opt/cri-proxy/bin/cri-proxy" ]; then
    on_node /opt/cri-proxy/bin/cri-proxy uninstall
  fi
  rm -rf "$host/opt/cri-proxy" "$host/etc/cri-proxy"
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
