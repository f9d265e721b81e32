"""Pictures in files: what every plot needs besides its own drawing."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from simvirt.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS: Final = (".png", ".svg", ".pdf")


def check_format(file: str | Path) -> None:
    """Can `file` be a picture, by its name? To be asked before the work.

    Raises:
        UsageError: its suffix is none of .png, .svg and .pdf.
    """
    if Path(file).suffix.lower() not in FORMATS:
        raise UsageError(f"{file}: a picture is a file that ends in {', '.join(FORMATS)}")


def new_picture(file: str | Path, width: float, height: float) -> Figure:
    """An empty figure, in inches, that `save_picture` can write to `file`.

    Raises:
        UsageError: the file's name has another suffix than .png, .svg or .pdf.
        UnsupportedError: matplotlib is not installed.
    """
    check_format(file)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedError("a picture needs matplotlib: pip install 'simvirt[notebook]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def save_picture(figure: Figure, file: str | Path) -> None:
    """Write it, the same bytes every time.

    Raises:
        UsageError: it cannot be written.
    """
    path = Path(file)
    try:
        figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror})") from error
