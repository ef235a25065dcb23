"""The daemon: the only place where objects are built, connected, started and stopped.

main            the daemon's life: sockets, signals, drain
parts           builds what a daemon and a command line share: workers, store, realizer
fronts          what serves kubelet's socket: the router, or the interposer alone
background      starts the maintenance loops
observing       builds the tracing of pods' startups
measuring       metrics, health and the address that serves them
initialization  the init message of each program that the daemon starts
worker          the worker program: runs jobs for the daemon
peering         the address for other nodes, and the supervised peer server
peerserver      the peer server program: serves store paths to other nodes
"""
