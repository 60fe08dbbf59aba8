"""Exports over an old checkpoint, each killed one step later: `python -m tests.models.exporting OLD NEW FOLDER MODE`.

MODE: `exchange`, or `rename` as on a system that cannot exchange names. Prints what the name stands for after each kill
and after the next start, `old`, `new` or `none`, and what is left in the folder then.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import models.files
from models.checkpoint.format import CheckpointError, find_checkpoints, load_checkpoint
from models.files import recover, replacing_directory

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "shutil.rmtree", "ctypes.dlsym"}


def main() -> None:
    old, new, folder = map(Path, sys.argv[1:4])
    if sys.argv[4] == "rename":
        models.files._exchange = lambda *_: False
    levels = {load_checkpoint(old).tokenizer.level: "old", load_checkpoint(new).tokenizer.level: "new"}
    for step in range(1000):
        target = shutil.copytree(old, folder / str(step) / "toy")
        child = os.fork()
        if child == 0:
            export(new, target, step)
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        at_once = stands_for(target, levels)
        recover(target.parent)
        left = sorted(path.name for path in target.parent.iterdir())
        sys.stdout.write(f"{at_once} {stands_for(target, levels)} {' '.join(left)}\n")
        if not killed:
            return


def export(new: Path, target: Path, step: int) -> None:
    """Ends by a signal just before a step is made, unless there are fewer."""
    made = 0

    def count(event: str, _: tuple[Any, ...] = ()) -> None:
        nonlocal made
        if event in STEPS:
            made += 1
            if made > step:
                os.kill(os.getpid(), signal.SIGKILL)

    fsync = os.fsync

    def counted_fsync(fd: Any) -> None:
        count("open")
        fsync(fd)

    os.fsync = counted_fsync
    sys.addaudithook(count)
    with replacing_directory(target) as written:
        for file in new.iterdir():
            (written / file.name).write_bytes(file.read_bytes())


def stands_for(target: Path, levels: dict[Any, str]) -> str:
    try:
        return levels[load_checkpoint(target).tokenizer.level]
    except CheckpointError:
        assert not find_checkpoints(target.parent)
        return "none"


if __name__ == "__main__":
    main()
