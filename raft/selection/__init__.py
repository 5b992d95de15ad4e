"""Select the samples that train the policy: rules, filters, and the rows that they select.

`raft.selection.rules` holds the pure functions of a (P, K) array of scores.
"""

from raft.selection.rules import (
    best_and_worst,
    best_of_k,
    global_top_fraction,
    select,
    threshold,
    top_m,
)

__all__ = ["best_and_worst", "best_of_k", "global_top_fraction", "select", "threshold", "top_m"]
