"""Values that every floor speaks of: references, store paths, environments, progress.

Everything here is frozen and pure: parsed once at the border, then no more strings.
"""
