class BadInput(Exception):
    """What the user gave cannot be used; the message is one line that says what to do. Exit code 2."""
