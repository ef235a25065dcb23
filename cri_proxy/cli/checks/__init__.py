"""The checks of `cri-proxy check`, independent of each other, a module per group.

    node        processor, kernel, user, certificate authorities
    endpoints   the runtime, the proxy's own socket, kubelet
    disk        the store's file system
    remotes     binary caches, trusted keys, FloxHub and its token, the clock
    optional    the node's own Nix and peers, where the settings ask for them
    http        the HTTP requests of `remotes`
    findings    what a check returns
    runner      runs them all concurrently, with a deadline

A check is a name and a function that returns a `Finding`: a verdict, what was found, and how to fix
it. Checks do not change the node; one writes a temporary file. The command `check` prints the
findings.
"""
