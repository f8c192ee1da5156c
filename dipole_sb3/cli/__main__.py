"""``python -m dipole_sb3.cli``: the ``dipole`` command without its entry point."""

import sys

from dipole_sb3.cli.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
