"""The tiny run in a process that kills itself after a step: `python shot.py FOLDER STEP`.

A process of its own, never a fork: threads of the test's process, PyTorch's among them, do not live on in one.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from tiny import Teller, tiny

from train.loop import train
from train.watch import Moment


def main(folder: Path, step: int) -> None:
    def kill(moment: Moment) -> None:
        if moment.step == step:
            os.kill(os.getpid(), signal.SIGKILL)

    train(tiny(), folder, watch=Teller(kill))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
