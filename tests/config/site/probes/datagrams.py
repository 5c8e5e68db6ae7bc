"""A handler for datagrams only."""

OPTIONS: dict = {}


def datagram(data, peer, options):
    """Answer nothing."""
