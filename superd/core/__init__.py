"""Pure policy: events in, commands out; no clock, no fd, no fork, no log."""
