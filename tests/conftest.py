"""No test needs the network: the process that runs the tests connects to this machine alone.

Guarded are Python's own sockets, and so requests, httpx, urllib and asyncio. Out of scope are sockets that C++ opens
(Ray, gRPC) and the processes that tests start, since each has a socket module of its own: verl's trainer in tests/e2e
runs under `verl_lad.cpu.run`, which switches the model hub and the usage statistics of Ray and vLLM off.
"""

import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest


def is_on_this_machine(family: int, address: Any) -> bool:
    """Whether a socket of this family that connects to the address stays on this machine."""
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    try:
        ip = ipaddress.ip_address(address[0])
    except ValueError:
        return address[0] in ("", "localhost")
    return ip.is_loopback or ip.is_unspecified


def guarded(connect: Callable[[socket.socket, Any], Any]) -> Callable[[socket.socket, Any], Any]:
    def on_this_machine(self: socket.socket, address: Any) -> Any:
        if not is_on_this_machine(self.family, address):
            pytest.fail(f"a test connects to {address[0]}, which is not this machine (tests/conftest.py)")
        return connect(self, address)

    return on_this_machine


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex"):
            patch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")  # for a Ray that a test starts
        yield
