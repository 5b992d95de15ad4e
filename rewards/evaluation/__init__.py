"""How good a reward is, from its scores alone: accuracy, calibration, length bias, benchmarks.

Arrays and plain rows in, numbers out. Knows nothing of models, files or text: `raft eval-reward`
reads a set, has it scored and lays the numbers out.

A margin is the score of the better response minus that of the worse one: above 0 the reward is
right, 0 is a tie, NaN is missing, and counted. Axes in names: M pairs, N rows, K responses of one
row, R responses of all rows, B resamples.
"""
