"""`python -m sgenet.cli` is `sgenet`."""

import sys

from sgenet.cli import main

if __name__ == "__main__":
    sys.exit(main())
