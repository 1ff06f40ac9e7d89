"""Slow down whoever guesses tokens, without shutting out raters behind the same address."""

import asyncio
from collections import Counter
from ipaddress import IPv6Address, ip_address
from time import monotonic

FREE = 10  # wrong tokens of an address before it is slowed down
FORGET_AFTER = 60.0  # seconds without a wrong token
DELAY = 2.0  # seconds before a token of a slow address is looked at, right or wrong
_AT_ONCE = 4  # tokens of a slow address that are waiting; the others are not looked at
_REMEMBERED = 10_000  # addresses


class Guesses:
    """How many wrong tokens came from each address lately. For one event loop, not for threads."""

    def __init__(self) -> None:
        self._wrong: dict[
            str, tuple[int, float]
        ] = {}  # how many and when the last one came, the latest at the end
        self._waiting: Counter[str] = Counter()

    def is_slow(self, address: str) -> bool:
        """Whether too many wrong tokens came from an address."""
        return self._count(_network(address)) >= FREE

    async def may_try(self, address: str) -> bool:
        """Whether a token of this address may be looked at now; if the address is slow, this takes a while."""
        if not self.is_slow(address):
            return True
        network = _network(address)
        if self._waiting[network] >= _AT_ONCE:
            return False
        self._waiting[network] += 1
        try:
            await asyncio.sleep(DELAY)
        finally:
            self._waiting[network] -= 1
            self._waiting += Counter()  # keeps only those who wait
        return True

    def was_wrong(self, address: str) -> None:
        """Count a wrong token."""
        network = _network(address)
        count = self._count(network) + 1
        self._wrong.pop(network, None)
        self._wrong[network] = (count, monotonic())
        if len(self._wrong) > _REMEMBERED:
            del self._wrong[next(iter(self._wrong))]

    def _count(self, network: str) -> int:
        count, last = self._wrong.get(network, (0, 0.0))
        return count if monotonic() - last < FORGET_AFTER else 0


def _network(address: str) -> str:
    """Whose address it is: a household or a firm has 2⁶⁴ addresses of IPv6."""
    try:
        parsed = ip_address(address)
    except ValueError:  # a proxy may say anything
        return address[:64]
    return parsed.packed[:8].hex() if isinstance(parsed, IPv6Address) else address
