"""Over-optimization of a learned reward, measured by a gold reward. See README.md."""
