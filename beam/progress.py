"""Shows on stderr how far a job with a local output folder is."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

from psad_tf.beam.output_file import PARTS

_EVERY_SECONDS = 10.0


@contextlib.contextmanager
def shown_progress(folder: str) -> Iterator[None]:
    """Prints a line every ten seconds: the time and the files written so far.

    Args:
        folder: The folder that the job writes; nothing is shown where it is not local.
    """
    done, start = threading.Event(), time.monotonic()

    def show() -> None:
        while os.path.isdir(folder) and not done.wait(_EVERY_SECONDS):
            sizes = []
            with contextlib.suppress(OSError), os.scandir(os.path.join(folder, PARTS)) as parts:
                sizes = [part.stat().st_size for part in parts]
            written = f"{len(sizes)} files of {sum(sizes) / 1e6:.0f} MB written"
            said = written if sizes else "reading and joining"
            print(f"preprocess: {int(time.monotonic() - start)} s, {said}", file=sys.stderr)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
