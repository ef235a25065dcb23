"""The node's own Nix as the store: `store.kind = "nix"`.

Nix fetches, verifies and keeps store paths, in its own store and under its own garbage collection;
environments are made of them as of any others. What is kept here, below `store.root`:

    nix/verified/<hash>-<name>     the contents have been compared with Nix's database, once
    nix/cache-<n>/                 Nix's cache of narinfos, of one process at a time
    environments/…                 as with a store of our own

and below Nix's own state, where its collector looks:

    gcroots/cri-proxy/<hash>-<name>    a link to the path: Nix keeps it, and its closure

    closures    the daemon's side of realising closures
    jobs        the jobs in a worker
    programs    nix-store, found and run
    roots       the links in gcroots
"""
