"""Which instance types have an Elastic Fabric Adapter, and what NCCL and libfabric need to be told there."""

from __future__ import annotations

from collections.abc import Sequence

# Those whose accelerators' memory the adapter reads and writes itself ("RDMA read" and "RDMA write" of the page below).
_RDMA = frozenset(
    {
        "p4d.24xlarge",
        "p4de.24xlarge",
        "p5.48xlarge",
        "p5e.48xlarge",
        "p5en.48xlarge",
        "p6-b200.48xlarge",
        "p6e-gb200.36xlarge",
        "trn1.32xlarge",
        "trn1n.32xlarge",
        "trn2.48xlarge",
        "trn2u.48xlarge",
    }
)

# "Accelerated computing" types in "Elastic Fabric Adapter", Amazon EC2 User Guide, "Supported instance types"
# (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/efa.html), without "ml.".
_EFA = frozenset(
    {
        *(f"g4dn.{size}" for size in ("8xlarge", "12xlarge", "16xlarge", "metal")),
        *(f"g5.{size}" for size in ("8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")),
        *(f"g6.{size}" for size in ("8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")),
        *(f"g6e.{size}" for size in ("8xlarge", "12xlarge", "16xlarge", "24xlarge", "48xlarge")),
        *(f"g7.{size}" for size in ("8xlarge", "12xlarge", "24xlarge", "48xlarge")),
        *(f"g7e.{size}" for size in ("8xlarge", "12xlarge", "24xlarge", "48xlarge")),
        "p3dn.24xlarge",
        *_RDMA,
    }
)


def variables(instance_types: Sequence[str]) -> dict[str, str]:
    """The variables for a job on hosts of these types: every one must have an adapter, or none can use theirs."""
    names = {name.removeprefix("ml.") for name in instance_types}
    found: dict[str, str] = {}
    if names and names <= _EFA:
        # NCCL's low-latency protocols take it for granted that bytes arrive in order, which EFA does not promise.
        found |= {"FI_PROVIDER": "efa", "NCCL_PROTO": "simple"}
    if names and names <= _RDMA:
        found["FI_EFA_USE_DEVICE_RDMA"] = "1"
    return found
