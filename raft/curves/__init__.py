"""Learning curves of one run or several, out of `metrics.jsonl`, as PNG, SVG or PDF.

A line is the mean on the fixed held-out prompts, in a band of its 95 % interval. What is measured
on the batch that a policy trains on is drawn thin and named so.
"""

from raft.curves.curves import draw_curves

__all__ = ["draw_curves"]
