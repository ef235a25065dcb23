"""Real parts to test against, small enough for one machine: each module is one of them.

Tests, the demo and the benchmarks share them. None knows of the part that is being tested, except
by the formats that both speak.
"""
