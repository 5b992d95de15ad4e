"""The parts of `raft demo`: a generated corpus, its gold reward, a small policy, preferences.

Nothing is downloaded and no data file is shipped: everything is generated from a seed.
"""
