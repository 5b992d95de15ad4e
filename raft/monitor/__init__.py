"""What a run watches beside its reward: divergence, text, n-grams; guards, and when to stop."""
