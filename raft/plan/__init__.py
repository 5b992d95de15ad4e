"""The needs of a config, before anything starts: memory of each process and GPU, disk, tokens."""
