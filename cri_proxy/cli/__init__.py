"""The command line: `cri-proxy serve | check | realize | environments | gc | store | trace | …`.

    main, arguments, commands   from the words of the command line to one module's `run`
    exits                       exit codes
    screen, display, numbers    output: terminal or pipe, progress bars, numbers as people read them
    verbosity                   what interactive commands log
    serve                       the daemon
    check, checks               whether this node has what the daemon needs
    realize, environments       environments on this node: made, listed
    gc, store                   garbage collected, store paths verified and repaired
    trace, waterfall            recorded startups of pods, drawn
    install, uninstall          the proxy put on a node and removed
    version                     versions for a bug report

A command is a module with `run(options, loaded) -> int`, which is imported only when it is asked
for, so that --help and version are quick. Results go to standard output, everything else to
standard error; colours, bars and tables are for terminals only, and `--json` is for programs.
"""
