"""Measure how good a reward is, from its scores: accuracy, calibration, length bias, benchmarks.

`dataset` and `forms` read a set, `scores` and `stored` give the scores of its responses, `evaluate`
joins them for `raft eval-reward`, and `report` writes the result. The other modules take arrays and
give numbers, without models, files or texts.

A margin is the score of the better response minus that of the worse one: above 0 the reward is
right, 0 is a tie, NaN is missing, and counted. Axes in names: M pairs, N rows, K responses of one
row, R responses of all rows, B resamples.
"""
