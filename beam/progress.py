"""Shows on stderr how far a job with a local output folder is."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from psad_tf.beam.writers import PARTS

_EVERY_SECONDS = 10.0


@contextlib.contextmanager
def shown_progress(folder: str) -> Iterator[None]:
    """Prints a line every ten seconds: time, data sorted so far and files written.

    Args:
        folder: The folder that the job writes; nothing is shown where it is not local.
    """
    if not os.path.isdir(folder):
        yield
        return
    done = threading.Event()
    thread = threading.Thread(target=_show, args=(folder, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _show(folder: str, done: threading.Event) -> None:
    start = time.monotonic()
    while not done.wait(_EVERY_SECONDS):
        seconds = int(time.monotonic() - start)
        _, sorted_bytes = _size(os.path.join(folder, ".work"))
        files, written_bytes = _size(os.path.join(folder, PARTS))
        print(
            f"preprocess: {seconds} s, {sorted_bytes / 1e6:.0f} MB sorted, "
            f"{files} files of {written_bytes / 1e6:.0f} MB written",
            file=sys.stderr,
        )


def _size(folder: str) -> tuple[int, int]:
    files = total = 0
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                files, total = files + 1, total + entry.stat().st_size
    return files, total
