"""Files that are written whole or not at all, places that can be written to, and locks between processes."""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from advx_jax.errors import UserError

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


# As `atomic_write` makes them, and folders that are written whole.
_TEMPORARY = re.compile(r"\..+-[a-z0-9_]{8}\.(tmp|old)(\.\w+)?")


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; rename it to `path` when the block ends without an error.

    Args:
        path: the file that is to appear; its folder is made if missing.

    Yields:
        The path to write to. If the block raises, that file is removed and `path` is untouched.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=f".tmp{path.suffix}", dir=path.parent)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; give this one the permissions that any new file gets.
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(folder: Path, stem: str | None = None) -> None:
    """Remove what killed processes left half written in a folder, in which nobody else may be writing.

    Args:
        folder: those directly in it are looked through, too.
        stem: of the only files to look for; then in the folder itself only.
    """
    paths = folder.glob(".*") if stem else (*folder.glob(".*"), *folder.glob("*/.*"))
    for path in paths:
        if _TEMPORARY.fullmatch(path.name) and (stem is None or path.name.rpartition("-")[0] == f".{stem}"):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_output_folder(folder: Path) -> None:
    """Make sure, before any work, that results can be written into a folder; make it if it is missing.

    Raises:
        UserError: they cannot.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UserError(f"expected a folder that can be written to, got {folder}: {error.strerror}") from error


def check_output_file(path: Path) -> None:
    """Make sure, before any work, that results can be written as a file; make its folder if it is missing.

    Raises:
        UserError: they cannot.
    """
    # What is neither a file nor missing (a folder, a device) is not to be replaced by one.
    if os.path.lexists(path) and not path.is_file():
        raise UserError(f"expected a file that can be written, got {path}: it is there, and is no file")
    check_output_folder(path.parent)


def try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or the process ends, in whatever way.

    Returns:
        Whether it is locked now; False if another process holds it.

    Raises:
        OSError: the operating system or the file system has no locks. Network file systems have them if their
            server's lock service runs.
    """
    if fcntl is None:
        raise OSError("no file locks on this system")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def locks_work(folder: Path) -> bool:
    """Whether files in a folder can be locked."""
    with tempfile.TemporaryFile(dir=folder) as stream:
        try:
            return try_lock(stream.fileno())
        except OSError:
            return False


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a lock file for as long as the block lasts; where there are no locks, do without.

    Args:
        path: of the file, which is there only while somebody holds it or was killed holding it.
        wait: for others to give it up; otherwise return at once.

    Yields:
        Whether nobody else holds it.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            free = _lock(descriptor, wait)
            # Whoever held it may have removed it in the meantime: then it locks nobody out any more.
            if not free or _is_open_as(path, descriptor):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield free
    finally:
        if free:
            path.unlink(missing_ok=True)
        os.close(descriptor)


@contextlib.contextmanager
def scratch_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """Give a temporary folder in `folder`; others that ask for one of the same prefix wait until the block ends.

    What killed processes left of theirs is removed, which may be much.
    """
    with locked(folder / f"{prefix}.lock"):
        # Where locks keep nobody out, it may be somebody's at work.
        for left in folder.glob(f"{prefix}-*") if locks_work(folder) else ():
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f"{prefix}-", dir=folder) as scratch:
            yield Path(scratch)


def _lock(descriptor: int, wait: bool) -> bool:
    try:
        if wait and fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            return True
        return try_lock(descriptor)
    except OSError:
        return True


def _is_open_as(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
