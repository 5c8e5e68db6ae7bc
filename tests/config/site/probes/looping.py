"""A handler for mode loop only."""

OPTIONS: dict = {}


async def serve(reader, writer, options):
    """Serve nobody."""
