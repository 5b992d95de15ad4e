"""Grading of GSM8K's published model solutions, and what a pool of them is worth."""
