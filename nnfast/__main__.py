"""`python -m nnfast`: the same as the nnfast command."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
