"""Words of messages that depend on a number."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number with its noun.

    Args:
        number: how many.
        noun: what, for one of them.
        plural: what, for several; the noun with an s by default.

    >>> counted(1, "task"), counted(2, "task"), counted(0, "query", "queries")
    ('1 task', '2 tasks', '0 queries')
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
