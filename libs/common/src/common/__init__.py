"""What every VirtRigaud service needs: the wire, errors, settings, TLS, health, logs, traces, metrics."""
