"""Maintenance: what the daemon does for the node when no pod asks, and commands do on demand.

inventory     the environments in place on this node, read from disk
pins          environments that stay on this node, and the state of each
prewarming    realizes pinned environments before a pod asks
gcroots       which environments containers, pods and pins keep
collection    garbage collection: planned, carried out, accounted for
housekeeping  watches the disk and starts collections
auditing      reads and hashes every store path, slowly, round after round
verification  hashes the whole store now, and repairs what is damaged
"""
