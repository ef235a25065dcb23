"""Peers: the nodes of one cluster get store paths from each other before they use the internet.

addresses  which peers there are, and which of them tracks a path
asking     the client side: a worker gets paths from other nodes
serving    the server side: a binary cache for other nodes, and the tracker's requests
tracker    which nodes have the paths that this node tracks, and whose turn it is to fetch

Every node serves what it has verified, with the original signatures. Each path has a tracker, the
node that its digest selects: there is no leader, and nothing to configure but a name in DNS.

    A worker                       The path's tracker              A node that has it
      | the path's narinfo?              |                                 |
      | -------------------------------> | known, or: ask the origin       |
      | a turn to fetch it               |                                 |
      | -------------------------------> | waits, then names a node        |
      | the archive                      |                                 |
      | -----------------------------------------------------------------> |
      | this node has it, too            |                                 |
      | -------------------------------> |                                 |

Peers are not trusted: a narinfo counts if a trusted key signed it, and an archive if it is what the
narinfo says, exactly as with any cache. A peer that is dead, slow or lies costs a bounded delay.
Only public paths are served (`local.Store.is_public`), none that needed a login.
"""
