"""The ways a run can end badly; the command line turns each into one line and an exit code."""


class BadInput(ValueError):
    """The user can mend it: a wrong option, missing data, a folder that cannot be written. Exit code 2."""


class TrainingFailed(RuntimeError):
    """Training broke down: a loss that is not finite, a collapse. Exit code 3."""


class WorkerLost(TrainingFailed):
    """A process that loads images was killed, most often for memory. What was learnt is whole."""
