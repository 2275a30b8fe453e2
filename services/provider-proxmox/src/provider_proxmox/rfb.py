"""The beginning of the VNC protocol (RFB), spoken to both sides: Proxmox VE wants a password that only we know, and
whoever opened the console through us has shown who they are already.

Source: RFC 6143, section 7.1; what it calls VNC authentication takes eight letters of a password, their bits reversed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from common.errors import HypervisorUnavailableError, NotSupportedError
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

VERSION = b"RFB 003.008\n"
NONE, VNC_AUTHENTICATION = 1, 2
_CHALLENGE = 16
_OLDEST_WITH_CHOICE = b"RFB 003.007\n"
_OLD = b"RFB 003.003\n"

Read = Callable[[], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


def answer(password: str, challenge: bytes) -> bytes:
    """What proves that we know the password."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    cipher = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()  # noqa: S305 - VNC knows nothing else
    return cipher.update(challenge) + cipher.finalize()


class Buffer:
    """Bytes as they come, given out as they are asked for."""

    def __init__(self, read: Read, doing: str) -> None:
        self._read = read
        self._doing = doing
        self._rest = b""

    async def exactly(self, amount: int) -> bytes:
        """So many bytes.

        Raises:
            HypervisorUnavailableError: the other side ended it first.
        """
        while len(self._rest) < amount:
            more = await self._read()
            if not more:
                raise HypervisorUnavailableError(f"{self._doing}: the display ended the line")
            self._rest += more
        data, self._rest = self._rest[:amount], self._rest[amount:]
        return data

    async def some(self) -> bytes:
        """What there is, or else comes next."""
        if self._rest:
            data, self._rest = self._rest, b""
            return data
        return await self._read()


async def log_in(buffer: Buffer, write: Write, password: str, doing: str) -> None:
    """Be the client until the display lets us in.

    Raises:
        HypervisorUnavailableError: it does not.
        NotSupportedError: it wants to know us by something else.
    """
    await buffer.exactly(len(VERSION))
    await write(VERSION)
    kinds = await buffer.exactly((await buffer.exactly(1))[0])
    if VNC_AUTHENTICATION in kinds:
        await write(bytes([VNC_AUTHENTICATION]))
        await write(answer(password, await buffer.exactly(_CHALLENGE)))
    elif NONE in kinds:
        await write(bytes([NONE]))
    else:
        raise NotSupportedError(f"{doing}: the display takes none of the ways to log in that we know")
    if int.from_bytes(await buffer.exactly(4), "big"):
        raise HypervisorUnavailableError(f"{doing}: the display did not accept its password", retry_after=2.0)


class Doorman:
    """Is the server for a client of ours that need not log in: says what to send for what came, until it is through."""

    def __init__(self) -> None:
        self.through = False
        self._version = b""
        self._came = b""

    @property
    def greeting(self) -> bytes:
        """What is sent before anything came."""
        return VERSION

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """Returns: what to send back, and what is for the display.

        Raises:
            NotSupportedError: the client speaks something else.
        """
        self._came += data
        back = b""
        if not self._version:
            if len(self._came) < len(VERSION):
                return b"", b""
            self._version, self._came = self._came[: len(VERSION)], self._came[len(VERSION) :]
            if not self._version.startswith(b"RFB "):
                raise NotSupportedError("the client of the console does not speak VNC")
            if self._version <= _OLD:
                back, self.through = NONE.to_bytes(4, "big"), True
            else:
                back = bytes([1, NONE])
        if not self.through:
            if not self._came:
                return back, b""
            self._came, self.through = self._came[1:], True  # there was one way to choose from
            if self._version > _OLDEST_WITH_CHOICE:
                back += bytes(4)
        rest, self._came = self._came, b""
        return back, rest
