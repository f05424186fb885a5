"""Networks of one's own on one machine, which can be cut: Linux network namespaces, each on one of two bridges.

A cut moves a namespace to the other bridge and back: packets are lost as on a line that is cut, and nobody is told.
"""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Sequence
from typing import Final

from tests.faults.campaign import Unable

MAIN, ISLE = "main", "isle"
_NETWORK: Final = "10.213.{}"
_HOST: Final = 1
_FIRST_GUEST: Final = 11


async def _ip(*arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, told = await process.communicate()
    if process.returncode:
        raise Unable(f"no network namespaces: ip {' '.join(arguments)}: {told.decode().strip()}")


class Network:
    """Some namespaces that reach each other, and this machine's own, unless they are cut off.

    Attributes:
        guests: Their addresses, in order.
    """

    def __init__(self, guests: int) -> None:
        # Of this process alone: several campaigns may run on one machine. A name has 15 characters at most.
        self._name = f"sf{os.getpid() % 10**6}"
        self._network = _NETWORK.format(os.getpid() % 250)
        self.guests = [f"{self._network}.{_FIRST_GUEST + number}" for number in range(guests)]

    def before(self, guest: int) -> Sequence[str]:
        """What stands before a command that is to run in a namespace."""
        return ("ip", "netns", "exec", f"{self._name}n{guest}")

    def _bridge(self, side: str) -> str:
        return f"{self._name}{side[0]}"

    async def _make(self) -> None:
        for side in (MAIN, ISLE):
            await _ip("link", "add", self._bridge(side), "type", "bridge")
            await _ip("link", "set", self._bridge(side), "up")
        await _ip("address", "add", f"{self._network}.{_HOST}/24", "dev", self._bridge(MAIN))
        for guest, address in enumerate(self.guests):
            space, outside, inside = f"{self._name}n{guest}", f"{self._name}o{guest}", f"{self._name}i{guest}"
            await _ip("netns", "add", space)
            await _ip("link", "add", outside, "type", "veth", "peer", "name", inside, "netns", space)
            await _ip("link", "set", outside, "master", self._bridge(MAIN), "up")
            await _ip("-n", space, "address", "add", f"{address}/24", "dev", inside)
            await _ip("-n", space, "link", "set", inside, "up")
            await _ip("-n", space, "link", "set", "lo", "up")

    async def _remove(self) -> None:
        for guest in range(len(self.guests)):
            for what in (("link", "delete", f"{self._name}o{guest}"), ("netns", "delete", f"{self._name}n{guest}")):
                with contextlib.suppress(Unable):  # not made yet
                    await _ip(*what)
        for side in (MAIN, ISLE):
            with contextlib.suppress(Unable):
                await _ip("link", "delete", self._bridge(side))

    async def place(self, guest: int, side: str) -> None:
        """Put a namespace on one side of the cut."""
        await _ip("link", "set", f"{self._name}o{guest}", "master", self._bridge(side))

    async def heal(self) -> None:
        """Put all of them on one side again."""
        for guest in range(len(self.guests)):
            await self.place(guest, MAIN)


@contextlib.asynccontextmanager
async def network(guests: int) -> AsyncIterator[Network]:
    """So many namespaces; nothing of them is left behind the block.

    Raises:
        Unable: The machine does not allow it.
    """
    if shutil.which("ip") is None:
        raise Unable("no network namespaces: there is no command `ip`")
    made = Network(guests)
    try:
        await made._make()
        yield made
    finally:
        await asyncio.shield(made._remove())
