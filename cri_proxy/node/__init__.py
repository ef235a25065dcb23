"""The node: what `cri-proxy install` changes on it, and how each change is taken back.

    unitfiles, kubelets, runtimes     read how kubelet is started, and what it speaks to
    texts, units                      decide, purely, what files are to say
    changes                           does it, with the originals kept before anything is touched
    release                           the program itself, one directory for each version
    host, readiness                   systemd, and whether the node is Ready
    installation                      in which order, and back again if it does not work

Every path goes through a `Root`, so that all but what needs a running systemd also works on the
unpacked image of a node. Nothing here is imported by the daemon.
"""
