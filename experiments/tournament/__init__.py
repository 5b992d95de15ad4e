"""A judge's tournament against a scalar reward, at equal forward passes. See README.md."""
