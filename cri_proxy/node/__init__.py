"""The node: what `cri-proxy install` changes on it, and how each change is undone.

    unitfiles, kubelets, runtimes     find how kubelet is started and which runtime it uses
    editing, units                    return the new text of files; pure
    changes                           writes them, and keeps the originals in a journal
    release                           the program's files, a directory per version
    systemd, readiness                the services, and whether the node is healthy
    installation                      the order of all this, and the rollback if it fails
    root                              the node's file system

All paths go through a `Root`, so that everything except systemd also works on the unpacked image of
a node. The daemon imports nothing of this package.
"""
