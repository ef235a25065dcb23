"""Store paths on this node: where they come from, how they are proved, how they are kept.

A binary cache describes each path in a narinfo (`narinfo`), signed with a key that the operator
trusts (`signatures`), and serves its contents as one compressed archive (`compression`, `nar`).
What a signature covers is the path, the hash and size of the archive and the references: so a
path that was unpacked from an archive of that hash is what the signer published, whoever served
it. The rest of this package finds, fetches and keeps such paths; FloxHub is not its business.
"""
