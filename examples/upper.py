#!/usr/bin/env python3
# Sends every line back in capitals, at once: sys.stdin line by line, flush after each.
# Run it as upper: {listen: 7771, exec: [examples/upper.py]}
import os
import sys

try:
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(line.upper())
        sys.stdout.buffer.flush()
except (BrokenPipeError, ConnectionResetError):
    # The peer has gone. Without _exit Python would try to flush once more.
    os._exit(0)
