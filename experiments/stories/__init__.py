"""Shared parts of the experiments on stories260k, a language model of 260,000 parameters: prompts,
a gold reward, pairs labelled by it, and reward models that learn from these."""
