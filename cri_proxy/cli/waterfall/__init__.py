"""The waterfall of a startup: when each span began, how long it took, and what all waited for.

rows       a trace as rows, one below the other, with the critical path and notes; pure
terminal   rows as lines with bars of characters
page       rows as one page for a browser, which needs nothing else
"""
