"""What a person types: `cri-proxy serve | check | realize | environments | version`.

`main` reads the command line (`arguments`) and the settings, runs the one module of the command and
turns what it raises into a line and an exit code (`exits`). A command is a module with
`run(options, loaded) -> int`, imported only when it is asked for, so that --help and version
are quick. Results go to standard output, everything else to standard error; colour, bars and tables
are for terminals only (`screen`), and `--json` is for programs.
"""
