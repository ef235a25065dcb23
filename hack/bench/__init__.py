"""Benchmarks of cri-proxy against comparable programs, with the figures to be reached.

    store    fetching and storing closures, compared with Nix
    pods     starting pods, compared with images; the daemon's cost on a node
    relay    forwarding calls, compared with a transparent proxy in Go

Each is a package with `main(argv) -> exit status`. Both sides of a comparison take turns within one
run, on the same fresh file system, so that other load on the machine affects both alike; the ratio
is what counts. Nothing here is a test: a missed figure is printed and does not fail the run.

    filesystems  fresh file systems to measure on
    rounds       turns, medians
    figures      measured values and the limits for them; the table and its JSON
"""
