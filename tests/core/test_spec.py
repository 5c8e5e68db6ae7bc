"""From the plan's services to values."""

from __future__ import annotations

from typing import Any

import pytest

from superd.core.spec import Limits, ListenerSpec, service_spec


def planned(**given: Any) -> dict[str, Any]:
    """Give a service as in superd/README.md."""
    return {
        "name": "echo",
        "place": "etc/superd.yaml:12:3",
        "mode": "process",
        "warm": False,
        "listeners": [{"key": "tcp 127.0.0.1:7007", "type": "stream"}],
        "admission": {
            "connections": 40,
            "per_source": 10,
            "ipv4_prefix": 32,
            "ipv6_prefix": 64,
            "when_full": "refuse",
            "message": "full",
        },
        "timeouts": {"stop": 5.0, "launcher_idle": 600.0},
        "launcher": {
            "program": {"exec": ["/usr/bin/cat"]},
            "user": None,
            "resolve": True,
        },
        **given,
    }


def test_every_value_of_the_plan_is_taken_over():
    spec = service_spec(planned(warm=True))
    assert (spec.name, spec.place) == ("echo", "etc/superd.yaml:12:3")
    assert spec.limits == Limits(40, 10, 32, 64, "refuse", "full")
    assert (spec.stop, spec.launcher_idle, spec.warm) == (5.0, 600.0, True)


@pytest.mark.parametrize(
    ("mode", "kind_of_socket", "kind"),
    [
        ("process", "stream", "stream"),
        ("process", "dgram", "datagram"),
        ("wait", "stream", "wait"),
        ("wait", "dgram", "wait"),
    ],
)
def test_mode_and_type_say_who_accepts(mode, kind_of_socket, kind):
    listeners = [{"key": "k", "type": kind_of_socket}]
    spec = service_spec(planned(mode=mode, listeners=listeners))
    assert spec.listeners == (ListenerSpec("k", kind),)


def test_another_mode_is_another_launcher():
    one, other = service_spec(planned()), service_spec(planned(mode="wait"))
    assert one.launcher != other.launcher


def test_equal_plans_are_equal_values_that_share_nothing():
    plan = planned()
    one, other = service_spec(plan), service_spec(planned())
    assert one == other
    plan["launcher"]["user"] = "changed"
    assert one == other
