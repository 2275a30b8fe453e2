"""What every VirtRigaud service needs: the wire, errors, settings, TLS, health, logs, traces, metrics."""

import os
import sys

# gRPC's C core writes lines of its own to stderr, past our log format and redaction, and reads this when it is
# imported: nowhere else is early enough. What it would say arrives as the error of the call. Set it to hear more.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

# In a child that another library forks, as libvirt does for ssh, it would go on, complain about files that are closed
# there, and so take the place of what ssh has to say. Ours never call anything before they execute another program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# It reads this then, too, and has no other switch against TLS 1.2. BoringSSL chooses the suites of 1.3 itself; of those
# of 1.2 only one is left, which needs a shared secret that nobody has. Whatever was set before would let 1.2 in again.
_SUITES, _IMPOSSIBLE = "GRPC_SSL_CIPHER_SUITES", "ECDHE-PSK-AES128-CBC-SHA"
TLS_1_3_ALONE = os.environ.get(_SUITES) == _IMPOSSIBLE or "grpc" not in sys.modules
"""Whether gRPC came after us, and knows."""
os.environ[_SUITES] = _IMPOSSIBLE
