"""Training of reward models: pairs in, a model folder out. Knows nothing of configs.

`examples` are what a recipe trains on, an `Objective` says what their loss is, `fit` does the rest:
batches under a token budget, steps, evaluation, checkpoints. A recipe (`bradley_terry`, `hh`,
`pairwise`, `grm`, `armorm`) puts these together. Nothing heavy is imported here.
"""
