"""The realizer: from a reference to an environment in place on this node.

    recipes     lockfile -> what to fetch, what to link, who it is (identity)        pure
    rendering   package trees -> the tree of FLOX_ENV                                 pure
    activation  [vars] and hook -> variables, envrc, the command before the program   pure
    assembly    closure and recipe -> a view committed on disk                        in a worker
    realizer    the conductor in the daemon: resolve, fetch, assemble, once for all who ask

FloxHub and the store are asked through worker jobs; the interposer is who asks.
"""
