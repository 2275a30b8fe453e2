"""What holds on the embedded API holds on a cluster: the same tests, over kube-apiserver."""

from e2e.test_edits import *  # noqa: F403
from e2e.test_identity import *  # noqa: F403
from e2e.test_life import *  # noqa: F403
