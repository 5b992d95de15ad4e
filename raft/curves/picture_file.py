"""Pictures as files: which are written for a name, and each whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.errors import InputError
from rollout.storage.files import full_disk_is_the_users

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["picture_files", "save_picture", "writing"]

_REFUSED = {
    errno.EACCES, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
    errno.EPERM, errno.EROFS,
}  # fmt: skip
_SUFFIXES = (".png", ".svg", ".pdf")
# without these the same run would draw another file tomorrow
_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": None}


def picture_files(out: str | Path) -> list[Path]:
    """The files that `out` stands for: itself, or without a suffix a PNG and an SVG.

    Raises:
        InputError: for a suffix that cannot be drawn.
    """
    path = Path(out)
    if path.suffix.lower() in _SUFFIXES:
        return [path]
    if not path.suffix:
        return [path.with_suffix(".png"), path.with_suffix(".svg")]
    raise InputError(
        f"{path}: cannot draw {path.suffix}; end the name in {', '.join(_SUFFIXES[:-1])} or "
        f"{_SUFFIXES[-1]}"
    )


def save_picture(figure: Figure, file: Path, dpi: int = 200) -> None:
    """Write the figure; call it under the rc parameters that it was made with.

    Raises:
        InputError: where the file cannot be written.
    """
    partial = file.with_name(f".{file.name}.partial{file.suffix}")
    with writing(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(partial, dpi=dpi, metadata=_UNDATED[file.suffix.lower()])
            os.replace(partial, file)
        finally:
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """Turn what the disk refuses into an `InputError` that names the file."""
    with full_disk_is_the_users(file):
        try:
            yield
        except OSError as error:
            if error.errno not in _REFUSED:
                raise
            raise InputError(
                f"{file}: cannot be written ({error.strerror}); choose another file"
            ) from error
