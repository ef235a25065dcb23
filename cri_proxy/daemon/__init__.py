"""The daemon: the only place where objects are built, connected, started and stopped.

parts      builds what a daemon and a command line share: workers, store, realizer
main       the daemon's life: sockets, signals, drain; and the worker program's jobs
inventory  what is in place on this node, read from disk
"""
