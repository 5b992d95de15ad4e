"""Train reward models from pairs into a model folder. This package knows nothing of configs.

`examples` are what a recipe trains on, an `Objective` defines their loss, and `fit` does the rest:
batches under a token budget, steps, evaluation, checkpoints. A recipe (`bradley_terry`, `hh`,
`pairwise`, `grm`, `armorm`) puts these together. Nothing heavy is imported here.
"""
