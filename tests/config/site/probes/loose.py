"""A handler whose OPTIONS are no literal."""

OPTIONS = dict(name="x")  # noqa: C408


def main(argv):
    """Serve nobody."""
    return len(argv)
