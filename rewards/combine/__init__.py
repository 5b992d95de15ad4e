"""One reward made of several: weighted sums, ensembles, length penalties, verbosity debiasing.

Members may be models, judges, functions or combinations themselves; `rewards.combine.build` makes a
`CombinedReward` from a spec.
"""
