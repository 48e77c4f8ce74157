"""What can be wrong with a stage's program."""


class ProgramError(RuntimeError):
    """The program file is not the one of the plan, or cannot be run as the manifest says."""
