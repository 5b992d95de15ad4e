"""Find stored samples, in the iterations of a run folder or in a file, and note what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raft.config.load import make_config
from raft.config.run import RunConfig
from raft.evaluation import by_judge
from raft.selection.filters import Filters
from rollout.data.bad_rows import BadRows
from rollout.data.forms import known_columns
from rollout.data.jsonl import Damage, is_object
from rollout.data.overrides import parse_yaml
from rollout.data.pools import pool_rows
from rollout.data.rows import read_rows, without_error
from rollout.data.samples import SampleRow, read_samples
from rollout.data.sources import Source as RowSource
from rollout.data.sources import find_source
from rollout.errors import InputError
from rollout.text.printable import one_line

__all__ = ["OriginalSelection", "Part", "Source", "find_samples"]

_ROLLOUTS = "rollouts.jsonl"
# the default of `rewards.judges.reward`, where a config names no method
_DEFAULT_TOURNAMENT = "knockout"


@dataclass(frozen=True, slots=True)
class Part:
    """Samples that are selected from together: one iteration's, or a whole file's."""

    name: str
    path: Path
    iteration: int | None = None


@dataclass(frozen=True, slots=True)
class OriginalSelection:
    """How the run itself selected.

    `judged` maps the columns that tournaments fill, whose means have no meaning, to the methods of
    these tournaments; `seed` is the run's.
    """

    strategy: str
    arguments: dict[str, float]
    filters: Filters
    judged: dict[str, list[str]] = field(default_factory=dict)
    seed: int = 0
    shuffle: bool = False


@dataclass(slots=True)
class Source:
    """Stored samples that can be replayed; `notes` name what is missing or cannot be read."""

    name: str
    parts: list[Part]
    own: OriginalSelection | None = None
    notes: list[str] = field(default_factory=list)
    rows: RowSource | None = None

    def read(self, part: Part, bad: BadRows | None = None) -> Iterator[SampleRow]:
        """Yield a part's rows one at a time.

        Damaged rows of a run are skipped and noted. Raises InputError for the first damaged row of
        a file, unless `bad` says that such rows are skipped.
        """
        if part.iteration is None:
            assert self.rows is not None, "a file was named"
            bad = bad or BadRows()
            for row in pool_rows(read_rows(self.rows, keep_errors=True)):
                try:
                    value = without_error(row).value
                    known = known_columns(value, row.where) if is_object(value) else value
                    found = SampleRow.from_json(known, row.where, row.number)
                except InputError as error:
                    bad.take(row.number, row.where, error)
                else:
                    yield found
            if said := bad.line():
                self.note(said)
            return
        damage = Damage()
        yield from read_samples(part.path, damage=damage)
        if damage.count:
            self.note(f"{part.name}: {damage}")

    def note(self, text: str) -> None:
        """Add a note, unless the same one was added before."""
        if text not in self.notes:
            self.notes.append(text)


def find_samples(
    name: str,
    iteration: int | None = None,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
) -> Source:
    """Find the samples of a run folder, of one of its iterations, or of a file.

    `split` and `columns` are about a file, as `find_source` takes them.

    Raises:
        InputError: there are no samples, or an iteration is given for a file.
    """
    path = Path(name).expanduser()
    if (path / "iterations").is_dir() or (path / "config.yaml").is_file():
        return _run(path, iteration)
    if iteration is not None:
        raise InputError(f"--iteration {iteration}", f"{name} is no run folder", "leave it out")
    found = find_source(name, split=split, columns=columns)
    if found.kind in ("dataset", "text"):
        raise InputError(name, "no such run folder or file", "name a run_dir, or a .jsonl file")
    return Source(name, [Part(path.name, path)], rows=found)


def _run(root: Path, iteration: int | None) -> Source:
    source = Source(str(root), [])
    source.own, planned = _own(root, source.notes)
    folders = {
        int(p.name): p for p in root.glob("iterations/*") if p.name.isdecimal() and p.is_dir()
    }
    # folder 000 is the starting policy's, and holds no rollouts
    numbers = sorted(folders.keys() - {0}) if iteration is None else [iteration]
    for before, number in zip([0, *numbers], numbers, strict=False):
        file = root / "iterations" / f"{number:03d}" / _ROLLOUTS
        if iteration is None and number > before + 1:
            source.notes.append(f"{_missing(before + 1, number - 1)}: not in {root / 'iterations'}")
        if file.is_file():
            source.parts.append(Part(f"iteration {number}", file, number))
        elif iteration is None:
            source.notes.append(f"iteration {number}: {file.parent} holds no {_ROLLOUTS}")
    if not source.parts:
        there = ", ".join(str(n) for n, p in sorted(folders.items()) if (p / _ROLLOUTS).is_file())
        what = f"iteration {iteration}: " if iteration is not None else ""
        known = f"it has those of iterations {there}" if there else "it has none at all"
        raise InputError(root, f"{what}no iterations/NNN/{_ROLLOUTS} to replay", known)
    last = numbers[-1]
    if iteration is None and planned is not None and planned > last:
        source.notes.append(
            f"iterations {last + 1} to {planned} of the config are not drawn yet"
            if planned > last + 1
            else f"iteration {planned} of the config is not drawn yet"
        )
    return source


def _missing(first: int, last: int) -> str:
    return f"iteration {first}" if first == last else f"iterations {first} to {last}"


def _own(root: Path, notes: list[str]) -> tuple[OriginalSelection | None, int | None]:
    """Return how the run selects and its number of iterations, read from its config.yaml.

    Both are None, with a note, where that is missing or cannot be read.
    """
    path = root / "config.yaml"
    try:
        data = parse_yaml(path.read_text(encoding="utf-8"), str(path))
        if not is_object(data):
            raise InputError(path, "holds no mapping of keys")
        config = make_config(data, where=str(path))
    except FileNotFoundError:
        notes.append(
            f"{path} is not there: how the run selected is not known, no filter is applied"
        )
        return None, None
    except (UnicodeDecodeError, InputError) as error:
        why = one_line(error)
        notes.append(f"{path} cannot be read ({why}): no filter of the run is applied")
        return None, None
    if (adaptive := config.sampling.adaptive) is not None:
        notes.append(
            f"the run drew in waves: prompts have more than {adaptive.first} samples where their "
            "first ones asked for more, and numbers at K < N are of samples that depend on that"
        )
    if (early := config.sampling.early_rejection) is not None:
        notes.append(
            f"the run rejected responses early: what is stored are the best {early.keep} of "
            f"{config.sampling.k} by their first {early.tokens} tokens, and numbers are of those"
        )
    rule = config.select
    own = OriginalSelection(
        rule.strategy, rule.arguments(), rule.filters(), _judged(config), config.seed, rule.shuffle
    )
    if rule.shuffle:
        notes.append(
            "the run dealt each prompt's scores at random; the rules here go by the scores"
        )
    return own, config.iterations


def _judged(config: RunConfig) -> dict[str, list[str]]:
    """Return the score columns that judges fill, each with the methods of their tournaments."""
    sections = {"scores": config.reward, "gold_scores": config.gold}
    found = {}
    for column in by_judge(config.reward, config.gold, alone=False):
        section = sections[column]
        assert section is not None, "a judge fills the columns of its own section"
        judges = [part for part in section.parts() if part.kind == "pairwise"]
        found[column] = sorted({one.tournament or _DEFAULT_TOURNAMENT for one in judges})
    return found
