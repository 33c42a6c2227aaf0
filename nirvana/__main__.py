"""`python -m nirvana`."""

from __future__ import annotations

import sys

from nirvana.cli import main

if __name__ == "__main__":
    sys.exit(main())
