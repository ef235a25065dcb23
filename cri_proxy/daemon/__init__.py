"""The daemon: the only place where objects are built, connected, started and stopped.

main            the daemon's life: sockets, signals, drain
parts           builds what a daemon and a command line share: workers, store, realizer
fronts          what kubelet talks to: the router, or the interposer alone
background      starts the maintenance loops
observing       builds what traces pods' startups
measuring       metrics, health and the address that serves them
initialization  the first message to each program that the daemon starts
worker          the worker program: runs the jobs that take time
peerserver      the peer server program: serves store paths to other nodes
sharing         supervises the peer server
"""
