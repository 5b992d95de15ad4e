"""Preference data of every published form, brought to `rewards.pairs.Pair`.

Pure functions from a row to pairs or to the reason why there are none. Knows nothing of files:
`raft.pair_data` reads them.
"""

from rewards.pair_sources.formats import FORMATS, Format, find_format, recognise
from rewards.pair_sources.rated import Rated
from rewards.pair_sources.record import Options, Outcome, Record, Refusal
from rewards.pair_sources.report import DataReport, SourceReport
from rewards.pair_sources.split import Split, split_last, split_pairs

__all__ = [
    "FORMATS",
    "DataReport",
    "Format",
    "Options",
    "Outcome",
    "Rated",
    "Record",
    "Refusal",
    "SourceReport",
    "Split",
    "find_format",
    "recognise",
    "split_last",
    "split_pairs",
]
