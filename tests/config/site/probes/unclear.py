"""A handler whose OPTIONS nobody understands."""

OPTIONS = {"name": "text"}


def main(argv):
    """Serve nobody."""
    return len(argv)
