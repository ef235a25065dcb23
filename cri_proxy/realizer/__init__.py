"""The realizer: from a reference to an environment in place on this node.

    realizer    coordinates in the daemon: resolve, fetch, assemble, once for all callers
    published   access to published packages: who may have them, and which caches have them
    holding     locks on what a realization or a container is about to use
    protocol    the jobs, and the values that the daemon and its workers exchange
    jobs        the jobs in a worker
    recipes     from a lockfile to what to fetch, what to link, and the identity; pure
    rendering   from package trees to the tree of FLOX_ENV; pure
    activation  from variables and hook to envrc and the command before the program; pure
    assembly    from closure and recipe to a view on disk
    trees       the store as a container sees it

FloxHub and the store are asked through worker jobs; the interposer is the caller.
"""
