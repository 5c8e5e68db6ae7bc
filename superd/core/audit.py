"""Audit the books of the core: every table against every other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from superd.core.supervisor import Supervisor


def check(core: Supervisor) -> None:
    """Raise AssertionError where two tables disagree: that is a bug of ours."""
    everyone = [*core.services.values(), *core.leaving]
    for service in everyone:
        service.admission.check()
        live = [core.conns[number] for number in service.conns]
        with_slot = [conn for conn in live if conn.source is not None]
        assert len(with_slot) == service.admission.live, service.name
        if service.launcher is not None:
            assert core.launchers[service.launcher].service is service
    for listener in core.listeners.values():
        assert listener.service in everyone, listener.key
        if listener.lent is not None:
            assert listener.lent in core.conns, listener.key
    for launcher in core.launchers.values():
        assert all(
            core.conns[number].launcher == launcher.id for number in launcher.conns
        )
    assert {conn.service for conn in core.conns.values()} <= set(everyone)
