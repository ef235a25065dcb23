"""The waterfall of a pod's startup: when each span began, how long it took, the critical path.

rows       a trace as rows, with the critical path and notes; pure
terminal   rows as lines of text with bars
html       rows as a self-contained HTML page
"""
