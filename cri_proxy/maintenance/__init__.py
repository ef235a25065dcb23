"""Maintenance of the node: what the daemon does in the background, and commands on demand.

inventory     the environments in place on this node, read from disk
pins          environments that stay on this node, and the state of each
prewarming    realizes pinned environments before a pod asks
gcroots       what keeps an environment: containers, pods and pins
collection    garbage collections, planned and carried out
housekeeping  watches the disk and starts collections
auditing      hashes every store path again, slowly, round after round
verification  hashes the whole store now, and repairs what is damaged
"""
