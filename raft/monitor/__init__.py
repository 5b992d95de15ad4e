"""Measurements of a run beside its reward (divergence, texts, n-grams), and guards that stop it."""
