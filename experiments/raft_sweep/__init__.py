"""Effects of K, temperature and the optimizer on RAFT; RAFT beside best-of-n. See README.md."""
