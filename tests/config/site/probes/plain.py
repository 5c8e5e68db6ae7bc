"""A handler with a plain function of the name that mode loop looks for."""

OPTIONS: dict = {}


def main(argv):
    """Serve nobody."""
    return serve(len(argv))


def serve(count):
    """Help main."""
    return count
