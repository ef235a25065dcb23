"""FloxHub: where environments come from. A reference goes in, a lockfile comes out.

`hub` makes a `resolution` of a reference: it asks `git` for the branch, which speaks through
`transport` and whose packs `pack` opens; `metadata` tells the live generation, `records` what the
node remembers. `lockfile` reads what was found, `outputs` and `variables` tell what a node makes of
it. `catalog` finds published packages. Everything is synchronous and runs in workers, as `jobs`.

Store paths are only named here; fetching them is the business of `cri_proxy.store`, which never
imports this package and is never imported by it.
"""
