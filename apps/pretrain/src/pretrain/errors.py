"""The ways a run can end badly; the command line turns each into one line and an exit code."""


def one_line(text: object) -> str:
    """`text` fit for one line of a terminal: what cannot be printed is escaped, the middle of a very long one cut."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return line if len(line) <= 1500 else f"{line[:1000]} ... {line[-400:]}"


class BadInput(ValueError):
    """The user can mend it: a wrong option, missing data, a folder that cannot be written. Exit code 2."""


class TrainingFailed(RuntimeError):
    """Training broke down: a loss that is not finite, a collapse. Exit code 3."""


class WorkerLost(TrainingFailed):
    """A process that loads images was killed, most often for memory. What was learnt is whole."""
