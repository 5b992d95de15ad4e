"""The configs of `raft`: a schema for each section of a YAML file, and the reader of the file."""

from raft.config.load import load_config, make_config
from raft.config.run import RunConfig

__all__ = ["RunConfig", "load_config", "make_config"]
