"""FloxHub: where environments come from. A reference goes in, a lockfile comes out.

    protocol   the jobs, and the values that the daemon and its workers exchange
    jobs       the jobs in a worker
    hub        from a reference to its resolution
    git        the head of an environment's branch, and the pack of its commit
    pack       files out of a git pack
    transport  HTTP to FloxHub
    records    what the node remembers of FloxHub, on disk
    catalog    the binary caches that have published packages
    metadata   metadata.json: which generations exist, and which is live
    lockfile   manifest.lock as values
    fields     JSON whose errors name the place in the document
    outputs    which store paths of a lockfile a node links
    variables  the order in which an environment's variables are set

Everything is synchronous and runs in workers, as `jobs`. Store paths are only named here; fetching
them is the business of `cri_proxy.store`, which never imports this package and is never imported by
it.
"""
