#!/bin/sh
# The installer's container: installs cri-proxy on its node, or uninstalls it.
#
#   install.sh install | uninstall
#
# /cri-proxy        the unpacked tarball, in this image
# /host/opt, /host/etc  the node's directories
# /settings         config.toml and prewarm.txt, from the ConfigMap
#
# The tarball's contents are copied to /opt on the node and run there, in the namespaces of the node's process 1, where
# the program talks to systemd, installs a release and restarts kubelet. Like every container, this one survives that. The
# copy is deleted afterwards; what it installed stays.
set -eu

image=${IMAGE_ROOT:-/cri-proxy}
host=${HOST_ROOT:-/host}
settings=${SETTINGS:-/settings}
done=${DONE:-/tmp/done}

say() { echo "installer: $*"; }

# Run a command on the node itself.
on_node() { ${ON_NODE-nsenter -t 1 -m -u -i -n -p --} "$@"; }

# Run this image's cri-proxy on the node.
with_program() {
  rm -rf "$host/opt/.cri-proxy-installer"
  cp -a "$image" "$host/opt/.cri-proxy-installer"
  on_node /opt/.cri-proxy-installer/bin/cri-proxy "$@"
  rm -rf "$host/opt/.cri-proxy-installer"
}

# Write a settings file if it differs; fail if it is unchanged.
settle() {
  mkdir -p "$(dirname "$2")"
  if cmp -s "$1" "$2"; then
    return 1
  fi
  cp "$1" "$2.new"
  mv "$2.new" "$2"
  say "wrote ${2#"$host"}"
}

# The daemon reads its settings only at startup, and installing an unchanged release does not restart it.
restart() {
  if on_node systemctl is-active --quiet cri-proxy.service; then
    on_node systemctl restart cri-proxy.service
  fi
}

case "${1-}" in
install)
  settle "$settings/prewarm.txt" "$host/etc/cri-proxy/prewarm.d/cluster" || true # the daemon reads it periodically
  if settle "$settings/config.toml" "$host/etc/cri-proxy/config.toml"; then
    restart
  fi
  with_program install
  say "cri-proxy is installed on this node"
  ;;
uninstall)
  with_program uninstall
  rm -rf "$host/etc/cri-proxy"
  say "cri-proxy is uninstalled from this node"
  ;;
*)
  sed -n '2,4p' "$0" >&2
  exit 2
  ;;
esac

touch "$done"
# Keep running until a signal arrives, which is handled immediately.
trap 'exit 0' TERM INT
while :; do sleep 3600 & wait $!; done
