"""The command `raft`.

`python -m raft.cli` puts the working directory first on the path, where a user's datasets.py would
be taken for the library: it comes last, unless it is where this package is.
"""

import os
import sys
from pathlib import Path

if sys.path and sys.path[0] != str(Path(__file__).parents[2]):
    try:
        if sys.path[0] in ("", os.getcwd()):
            sys.path.append(sys.path.pop(0))
    except OSError:  # it was deleted
        pass
