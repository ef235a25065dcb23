"""NAR, the archive format of Nix: one file tree as one canonical string of bytes.

`unpack` takes the bytes of one archive as they arrive (from `compression`, from a file), proves
hash and size while it writes the tree, and so leaves either a tree that is exactly what was
promised or an error and a stage for its caller to remove. `write` is the way back, and `digest_of`
the proof of a tree that is on disk already. One tree has exactly one archive: whatever is written
in another way than Nix would write it is refused, for then the hash would not prove the tree.

Source of the format: Eelco Dolstra, "The Purely Functional Software Deployment Model", figure 5.2,
and the Nix manual, "Nix Archive (NAR) format".
"""

from cri_proxy.store.nar.reader import Unpacked, unpack
from cri_proxy.store.nar.stream import ByteSource, filler_of
from cri_proxy.store.nar.writer import digest_of, write

__all__ = ["unpack", "Unpacked", "ByteSource", "filler_of", "write", "digest_of"]
