"""The release: a tarball that runs on any Linux node, the wheel, checksums, and an SBOM.

    inputs.json  ──fetched──>  Debian packages, wheels, a compiler      verified by their SHA-256
    tree         ──laid out──> cri-proxy-VERSION/                       interpreter, C library, us
    archive      ──packed──>   dist/cri-proxy-VERSION-linux-ARCH.tar.gz
    parts        ──listed──>   dist/cri-proxy-VERSION-linux-ARCH.cdx.json
    audit        ──compared──> what Debian and its security archive offer today

The tarball contains everything down to the C library: it only needs the node's kernel. The build is
reproducible: equal inputs and sources give equal bytes on every machine. See
`python -m hack.dist --help`.
"""
