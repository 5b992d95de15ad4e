"""Learning curves of one run or several, from `metrics.jsonl`, as PNG, SVG or PDF.

A line is the mean on the fixed held-out prompts, in a band of its 95 % interval. Metrics of the
batch that a policy trains on are drawn as thin lines and labelled as such.
"""

from raft.curves.curves import draw_curves

__all__ = ["draw_curves"]
