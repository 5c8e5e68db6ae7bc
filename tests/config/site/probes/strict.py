"""A handler that declares an option of every type."""

OPTIONS = {
    "name": {"type": "str", "default": "", "help": "a text"},
    "max_size": {"type": "int", "default": 5, "help": "a number", "min": 1, "max": 9},
    "ratio": {"type": "float", "default": 0.5, "help": "a share", "min": 0, "max": 1},
    "deep": {"type": "bool", "default": False, "help": "a switch"},
    "root": {"type": "path", "default": ".", "help": "a folder"},
    "index": {"type": "list", "default": [], "help": "some texts"},
    "how": {"type": "choice", "choices": ["fast", "slow"], "help": "one of them"},
    "open": {"type": "bool", "default": True, "help": "a switch that is on"},
    "wait": {"type": "duration", "default": 1.5, "min": 0.5, "help": "a time"},
    "room": {"type": "size", "default": 65536, "max": 1048576, "help": "some bytes"},
    "marks": {"type": "map", "lone": "*", "default": [], "help": "pairs"},
    "more": {
        "type": "table",
        "lone": "kind",
        "keys": {
            "kind": {
                "type": "choice",
                "choices": ["a", "b"],
                "default": "a",
                "help": "",
            },
            "file": {"type": "path", "default": "", "help": "a file"},
            "idle_time": {"type": "duration", "default": 60.0, "help": "a time"},
        },
        "help": "options below a name",
    },
}


def main(argv):
    """Serve nobody."""
    return len(argv)
