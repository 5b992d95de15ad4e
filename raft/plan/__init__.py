"""What a config needs before anything starts: memory of each process and GPU, disk, tokens."""
