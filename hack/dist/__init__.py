"""The release: a tarball that runs on any Linux node, the wheel, checksums, and a list of parts.

    inputs.json  ──fetched──>  Debian packages, wheels, a compiler      each proved by its SHA-256
    tree         ──laid out──> cri-proxy-VERSION/                       interpreter, C library, us
    archive      ──packed──>   dist/cri-proxy-VERSION-linux-ARCH.tar.gz
    parts        ──listed──>   dist/cri-proxy-VERSION-linux-ARCH.cdx.json
    audit        ──compared──> what Debian and its security archive offer today

The tarball brings everything down to the C library: of the node it needs the kernel alone. Equal
inputs and equal sources give equal bytes, wherever it is built. `python -m hack.dist --help`.
"""
