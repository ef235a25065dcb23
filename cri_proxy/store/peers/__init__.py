"""Peers: the nodes of one cluster get store paths from each other before they ask the internet.

Every node serves what it has verified, with the original signatures (`serving`), and keeps book of
who has which of the paths that fall to it (`tracker`); a worker that needs a path asks the node to
which the path falls, and gets told from whom to take it, or that it is the one to ask the origin
(`asking`). Which paths fall to which node follows from their names (`addresses`): there is no
leader and nothing to configure but a name in DNS.

    worker                      node that the path falls to          node that has it
      │  narinfo of the path?       │                                      │
      │ ──────────────────────────> │  known here, or: ask the origin      │
      │  whose turn is it?          │                                      │
      │ ──────────────────────────> │  holds back, then names a node       │
      │  archive                    │                                      │
      │ ─────────────────────────────────────────────────────────────────> │
      │  I have it, too             │                                      │
      │ ──────────────────────────> │                                      │

No peer is believed: a narinfo counts if a trusted key signed it and an archive if it is what the
narinfo says, exactly as with any cache. A peer that is dead, slow or lies costs a bounded delay.
Only public paths are served (`local.Store.is_public`): what somebody had to log in for is not.
"""
