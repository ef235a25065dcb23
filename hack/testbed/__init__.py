"""Real components to test against, small enough for one machine; each module is one of them.

Tests, the demo and the benchmarks share them. They share only formats and protocols with the code
under test.
"""
