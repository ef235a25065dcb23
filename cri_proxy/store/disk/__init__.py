"""The store on this node's disk, consistent after any crash.

staging      trees made beside their place, and renamed into it under a lock
checkpoints  committed trees synced in the background
local        verified store paths, each with its narinfo
views        an environment's own tree of hard links, mounted as /nix/store
overlays     a writable /nix for one container, over a shared view
leases       environments and store paths in use, protected from garbage collection
garbage      garbage collection: what can be deleted, and deleting it at low priority
integrity    store paths hashed again, quarantined and repaired
"""
