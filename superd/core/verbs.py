"""List the verbs of the log: the only words that a line can begin with.

A verb is also the name of the event in JSON and in the journal, so changing one breaks
somebody's alarm. The table of docs/logging.md is made from this one.
"""

from __future__ import annotations

VERBS: dict[str, str] = {
    "accept": "a handler was started for a connection",
    "bug": "an exception of superd's own was caught; superd goes on",
    "config": "one error or warning of the configuration, at a reload",
    "drain": "a service takes no new connection, its running ones finish",
    "end": "a handler has ended: how, after how long, with how much CPU time",
    "kill": "handlers or a launcher are signalled: they did not end by themselves",
    "listen": "a listener is open, or an optional one is not",
    "log": "the log about itself: lines dropped for a slow reader, a file not reopened",
    "note": "a remark of a launcher or of superd",
    "reap": "a launcher, or a process that nobody knows, was reaped",
    "refuse": "a connection got no handler; `reason` is one of the table below",
    "release": "a throttle has ended by itself",
    "reload": "a generation came into force, or was refused",
    "spawn": "a launcher was started, or a program got a whole listener",
    "stderr": "a line that a handler wrote to its stderr",
    "stop": "superd stops, or has stopped",
    "throttle": "a service, or one listener, is not polled for `delay` seconds",
}
