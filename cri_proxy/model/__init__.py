"""Values that every floor uses, frozen and pure: parsed once at the border, then no more strings.

references      owner/name:generation
storepaths      /nix/store/<digest>-<name>
lockfiles       what a generation consists of
cachelocations  the caches that FloxHub's catalog lists, with their logins
environments    a realized environment, and its record on disk
progress        how far a realization is
systems         what lockfiles call this machine
imagenames      names of container images
placeholder     the image of pods that need none
traces          a pod's startup as it is stored and read
"""
