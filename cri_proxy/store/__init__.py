"""Store paths on this node: fetched from binary caches, verified, and kept on disk.

    protocol     job names and the values that the daemon and its workers exchange
    narinfo      what a binary cache says of one store path, and what its signature covers
    signatures   Ed25519 keys and the signatures of store paths
    compression  xz, zstd, gzip and bzip2 archives as plain bytes
    nar          Nix's archive format: read, written, unpacked
    caches       binary caches: directories, sites, S3 buckets, and failover between them
    disk         the store and the environments on this node, garbage collection, integrity
    peers        other nodes as binary caches, and this node as theirs
    fetch        closures, from the roots of an environment to verified store paths on disk
    nix          the node's own Nix in place of all that (`store.kind = "nix"`)

The store knows nothing of FloxHub, whose lockfiles only name store paths.
"""
