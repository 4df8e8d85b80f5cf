"""Exceptions that end a run with a message instead of a traceback."""


class UserError(ValueError):
    """A mistake in the input: a config key, a path, a CSV line, a checkpoint that does not fit.

    The message is one sentence with the rule, the value and the fix. The programs in ``tools/``
    print it and exit with status 2. Any other exception is a bug and keeps its traceback.
    """


class TransientError(UserError):
    """An error that may not occur again if the same run is restarted, here or on another machine.

    Examples are a full disk and a node without a GPU. A requeued job may continue.
    """
