"""What the standard library lacks. Nothing here knows of pods, environments or the CRI."""
