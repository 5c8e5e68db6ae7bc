"""A handler that declares an option of every type."""

OPTIONS = {
    "name": {"type": "str", "default": "", "help": "a text"},
    "max_size": {"type": "int", "default": 5, "help": "a number", "min": 1, "max": 9},
    "ratio": {"type": "float", "default": 0.5, "help": "a share", "min": 0, "max": 1},
    "deep": {"type": "bool", "default": False, "help": "a switch"},
    "root": {"type": "path", "default": ".", "help": "a folder"},
    "index": {"type": "list", "default": [], "help": "some texts"},
    "how": {"type": "choice", "choices": ["fast", "slow"], "help": "one of them"},
}


def main(argv):
    """Serve nobody."""
    return len(argv)
