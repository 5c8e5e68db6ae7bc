"""A handler for every mode."""

OPTIONS: dict = {}


def main(argv):
    """Serve nobody."""
    return len(argv)


async def serve(reader, writer, options):
    """Serve nobody, in a loop."""


def datagram(data, peer, options):
    """Answer nothing."""
