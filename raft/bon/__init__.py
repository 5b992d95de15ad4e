"""Best-of-n: measure what it gains for every n, from one pool of responses to each prompt."""
