"""What `cri-proxy check` looks at: independent checks, a module per group.

A check is a name and a function that looks and returns a `Finding`: plain data with a status, what
was found, and what to do about it. Checks change nothing on the node but for a file that one of
them writes and removes at once. `running` runs them all at the same time, each with a deadline;
`check` draws what they found.
"""
