"""The store on this node's disk, whole after every crash.

staging    where a tree is made before it is renamed into place
local      verified store paths, each with its narinfo
views      an environment's own tree of hard links, mounted as /nix/store
overlays   a writable /nix for one container over a shared view
leases     shared and exclusive use of store paths against garbage collection
garbage    garbage collection: what can be deleted, and deleting it at low priority
integrity  store paths hashed again, quarantined and repaired
"""
