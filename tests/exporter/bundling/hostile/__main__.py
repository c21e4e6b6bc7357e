"""Write the bundles that the command line names."""

from __future__ import annotations

import sys
from pathlib import Path

from . import write_all

write_all(*map(Path, sys.argv[1:]))
