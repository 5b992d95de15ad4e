"""What the commands do, as functions: the commands read options and call these.

Each begins by showing its progress on stderr, unless the program has a log of its own, and returns
what it made with `to_pandas()`.
"""
