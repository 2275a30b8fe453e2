"""What every VirtRigaud service needs: the wire, errors, settings, TLS, health, logs, traces, metrics."""

import os

# gRPC's C core writes lines of its own to stderr, past our log format and redaction, and reads this when it is
# imported: nowhere else is early enough. What it would say arrives as the error of the call. Set it to hear more.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
