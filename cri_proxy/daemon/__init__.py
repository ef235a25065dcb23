"""The daemon: the only place where objects are built, connected, started and stopped.

parts      builds what a daemon and a command line share: workers, store, realizer
main       the daemon's life: sockets, signals, drain
hands      the worker program: what does the jobs that take time
observing  builds what traces pods' startups
measuring  what is counted and measured, and where others read it
inventory  what is in place on this node, read from disk
"""
