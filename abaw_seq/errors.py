"""The two ways a command can end badly, each with one line for the person who typed it."""


class AbawError(Exception):
    """Something failed while the request itself was sound (exit code 1)."""

    exit_code = 1


class UserError(AbawError):
    """The request cannot be carried out as given (exit code 2).

    The message is one line that names the file, video or key at fault and says what to do.
    """

    exit_code = 2
