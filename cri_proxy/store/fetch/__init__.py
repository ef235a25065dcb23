"""Fetching closures: the daemon plans, workers download, verify and unpack.

closures   the daemon's side: surveys closures and schedules the downloads of all realizations
jobs       the workers' side: the jobs that survey and fetch
traversal  closure traversal: from the roots along references
archives   one archive on its way from a cache to the unpacker
turns      which of the concurrent jobs computes next
"""
