"""What K, temperature and the optimizer do to RAFT, and RAFT beside best-of-n. See README.md."""
