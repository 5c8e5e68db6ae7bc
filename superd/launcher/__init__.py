"""The launcher: becomes one service once, then starts its handlers."""
