"""``python -m fairl_sk``: the command line of `fairl_sk.cli`."""

import sys

from .cli import main

sys.exit(main())
