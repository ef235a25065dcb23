"""`python -m cri_proxy`: the same as the installed command."""

import sys

from cri_proxy.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
