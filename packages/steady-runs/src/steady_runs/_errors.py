"""The ways a run can end badly; the command line turns each into one line and an exit code."""


class BadInput(ValueError):
    """The user can mend it: a wrong option, missing data, a folder that cannot be written. Exit code 2."""


def from_worker(error: BadInput) -> BadInput:
    """The same as one line, where a loader's process has put its traceback in front."""
    return BadInput(str(error).strip().splitlines()[-1].removeprefix(f"{BadInput.__module__}.BadInput: "))


class TrainingFailed(RuntimeError):
    """Training broke down: a loss that is not finite. Exit code 3."""


class Interrupted(KeyboardInterrupt):
    """The run was told to stop; the message says what is saved. Exit code 130."""
