"""What a command can end with: the errors that a user can mend, each with its exit code and its first words.

Every one that a room raises for input is one of these, so the front door need not know the rooms.
"""


class InputError(ValueError):
    """Something that a person wrote is wrong: a name, a file, a field. No file was touched."""

    exit_code, kind = 2, "bad input"


class WrongEnvironment(RuntimeError):
    """The machine, or what a file was made on, is not what was asked for. No file was touched."""

    exit_code, kind = 3, "environment not as asked"


class Refused(ValueError):
    """The input is in order, but what it says is not fit for what was asked: drift can't be calibrated."""

    exit_code, kind = 1, "refused"


class Fault(RuntimeError):
    """What was run did not finish, or was not the same twice."""

    exit_code, kind = 1, "fault"


class NothingKnown(ValueError):
    """Nothing is stored that could answer."""

    exit_code, kind = 4, "nothing known"


class Incomplete(RuntimeError):
    """What was asked for was begun and can be gone on with: a campaign that its budget stopped. Nothing was judged."""

    exit_code, kind = 5, "incomplete"


MENDABLE = InputError, WrongEnvironment, Refused, Fault, NothingKnown, Incomplete
