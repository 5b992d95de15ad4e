"""One reward made of several: weighted sums, ensembles, length penalties, verbosity debiasing.

Knows nothing of what its members are: models, judges, functions or combinations themselves.
`rewards.combine.build` turns plain settings into a `CombinedReward`.
"""
