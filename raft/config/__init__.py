"""What may be said in a YAML file: one schema a section, and the reader that fills them in."""

from raft.config.load import load_config, make_config
from raft.config.run import RunConfig

__all__ = ["RunConfig", "load_config", "make_config"]
