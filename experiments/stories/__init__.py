"""What the experiments on the 260,000-parameter story teller share: prompts, a gold reward, pairs
labelled by it, and reward models that learn from these."""
