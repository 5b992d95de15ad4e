"""The command `raft`.

`python -m raft.cli` puts the working directory first on `sys.path`, so that a user's datasets.py
would be imported in place of the library `datasets`. The directory is therefore moved to the end,
unless this package is imported from it.
"""

import os
import sys
from pathlib import Path

if sys.path and sys.path[0] != str(Path(__file__).parents[2]):
    try:
        if sys.path[0] in ("", os.getcwd()):
            sys.path.append(sys.path.pop(0))
    except OSError:  # the working directory was deleted
        pass
