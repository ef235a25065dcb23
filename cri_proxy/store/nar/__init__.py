"""NAR, the archive format of Nix: a file tree as one canonical byte string.

`unpack` reads an archive as its bytes arrive, from `compression` or a file, writes the tree and
verifies hash and size on the way. It either leaves the expected tree, or raises an error and leaves
remains for its caller to remove. `write` does the reverse, and `digest_of` verifies a tree that is
on disk already. A tree has exactly one archive: any encoding that Nix would not produce is refused,
because the hash would not prove the tree then.

    grammar   the keywords of the format, and its limits
    stream    the bytes of one archive: buffered, counted, hashed
    reader    unpacks an archive into a file tree
    writer    writes a file tree as an archive

Source of the format: Eelco Dolstra, "The Purely Functional Software Deployment Model", figure 5.2,
and the Nix manual, "Nix Archive (NAR) format".
"""

from cri_proxy.store.nar.reader import unpack
from cri_proxy.store.nar.stream import ByteSource
from cri_proxy.store.nar.writer import digest_of, write

__all__ = ["unpack", "ByteSource", "write", "digest_of"]
