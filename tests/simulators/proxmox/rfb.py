"""The beginning of the VNC protocol: version, password, and a first look at an empty screen."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Awaitable, Callable

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

VERSION = b"RFB 003.008\n"
VNC_AUTHENTICATION = 2
WIDTH, HEIGHT = 720, 400
# 32 bits per pixel, depth 24, little endian, true colour, 8 bits of red, green, blue
_PIXELS = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)

Read = Callable[[int], Awaitable[bytes]]
Write = Callable[[bytes], Awaitable[None]]


def answer(password: str, challenge: bytes) -> bytes:
    """What a client that knows the password replies. VNC takes eight characters, and their bits the wrong way round."""
    key = bytes(int(f"{byte:08b}"[::-1], 2) for byte in password.encode()[:8].ljust(8, b"\0"))
    cipher = Cipher(TripleDES(key * 3), modes.ECB()).encryptor()
    return cipher.update(challenge) + cipher.finalize()


async def greet(read: Read, write: Write, password: str, name: str) -> bool:
    """The server's side until the client may ask for pictures; whether it knew the password."""
    await write(VERSION)
    await read(len(VERSION))
    await write(bytes([1, VNC_AUTHENTICATION]))
    chosen = await read(1)
    challenge = secrets.token_bytes(16)
    await write(challenge)
    if chosen[0] != VNC_AUTHENTICATION or await read(16) != answer(password, challenge):
        why = b"Authentication failed"
        await write(struct.pack(">II", 1, len(why)) + why)
        return False
    await write(bytes(4))
    await read(1)  # whether it shares the screen
    title = name.encode()
    await write(struct.pack(">HH", WIDTH, HEIGHT) + _PIXELS + struct.pack(">I", len(title)) + title)
    return True
