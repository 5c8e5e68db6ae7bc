"""Signals as bytes: none is lost where one loop ends and the next has not begun."""

from __future__ import annotations

import os
import signal

from superd.pipe.signals import Signals


def test_a_signal_is_read_where_it_can_be_acted_on():
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.take() == [signal.SIGTERM]
        assert signals.take() == []


def test_what_came_too_late_for_a_loop_is_not_lost():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with Signals():
            os.kill(os.getpid(), signal.SIGTERM)
            assert heard == []
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_that_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Signals() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            assert signals.take() == []
    finally:
        signal.signal(signal.SIGHUP, before)
