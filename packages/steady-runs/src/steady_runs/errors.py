"""The ways a run can end early. The command line turns each into one line on stderr and an exit code."""


class BadInput(ValueError):
    """The user can fix it: a wrong option, missing data, a folder that cannot be written. Exit code 2."""


class TrainingFailed(RuntimeError):
    """Training broke down: a loss that is not finite, a collapse. Exit code 3."""


class WorkerLost(TrainingFailed):
    """A process that loads images was killed, usually because memory ran out. The weights are intact."""


class Interrupted(KeyboardInterrupt):
    """The run was told to stop. The message says what is saved. Exit code 130."""


def one_line(text: object) -> str:
    """Make `text` fit for one line of a terminal: escape what cannot be printed, cut the middle if it is very long."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return line if len(line) <= 1500 else f"{line[:1000]} ... {line[-400:]}"


def from_worker(error: BadInput) -> BadInput:
    """Strip the traceback that torch's DataLoader puts in front of an error raised in a worker process."""
    return BadInput(str(error).strip().splitlines()[-1].removeprefix(f"{BadInput.__module__}.BadInput: "))
