"""`python -m lmnb` is `lmnb`."""

import sys

from lmnb.cli import main

sys.exit(main())
