"""critest, Kubernetes' tests for container runtimes, run with and without the proxy.

    make critest                                          every pairing
    make critest ARGS="--runtime 2 --critest v1.36.0"     one pairing
    make critest ARGS="--focus 'Streaming'"               some of the tests

For each runtime, critest runs three times with the same seed: directly on containerd, through the
router, and through the interposer alone. Tests that fail without the proxy are listed and ignored.
A test with a different outcome through the proxy fails the run.

    fixtures    the images that critest pulls, served on this machine; skipped tests, with reasons
    outcomes    reading and comparing critest's reports
    __main__    the runs and their output
"""
