"""Benchmarks: the figures that cri-proxy is to reach, measured side by side with what others do.

    store    fetching and keeping closures, against Nix
    pods     starting pods, against images; what a node pays for the daemon
    relay    passing calls on, against a transparent proxy in Go

Each is a package with `main(argv) -> exit status`. Both sides of a comparison run in one go, one
after the other in turns, on the same fresh file system, so that a busy machine is busy for both;
what counts is the ratio. Nothing here is a test: a figure that is missed is printed, not failed.

    grounds  file systems that no earlier run has worn
    rounds   turns, medians
    figures  what was measured against what was to be reached; the table and its JSON
"""
