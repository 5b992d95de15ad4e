"""pass@k, maj@k and rm@k of stored responses to questions whose right answer is a number."""
