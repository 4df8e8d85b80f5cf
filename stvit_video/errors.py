"""The exceptions that end a run with a sentence instead of a traceback."""


class UserError(ValueError):
    """A mistake of the user's: a config key, a path, a CSV line, a checkpoint that does not fit.

    The message is one sentence that says the rule, the value and the mend. The programs in
    ``tools/`` print it and exit with status 2; anything else that is raised is a defect of ours
    and keeps its traceback.
    """


class TransientError(UserError):
    """One that need not come again when the same run is started later, or on another machine.

    A disk that is full now, or a node that lacks a GPU: a job that is requeued may go on.
    """
