"""Examine a reward model for faults; every finding is measured on the model itself.

`examine` runs all checks; each lives in a file of its own and yields `Finding`s. Nothing here
changes a model or a file.
"""

from __future__ import annotations

from rewards.doctor.finding import Finding, Level

__all__ = ["Finding", "Level"]
