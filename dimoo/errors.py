"""The one exception type of the package."""


class DimooError(Exception):
    """Something the person at the keyboard can act on, said in one sentence.

    The web page shows the sentence; the command line prints it and exits with status 2.
    """
