"""critest, Kubernetes' own tests of a runtime, with and without the proxy: the same must pass.

    make critest                                          every pairing
    make critest ARGS="--runtime 2 --critest v1.36.0"     one
    make critest ARGS="--focus 'Streaming'"               some of the tests

For each runtime, critest runs three times with the same seed: against containerd itself, through
the router, and through the interposer alone. What the runtime fails by itself is its own business,
or this machine's. A test with another outcome through the proxy fails the run.

    grounds     the images that critest asks for, served on this machine; tests left out, and why
    outcomes    critest's report, read; two of them, compared
    __main__    the runs, and what is printed
"""
