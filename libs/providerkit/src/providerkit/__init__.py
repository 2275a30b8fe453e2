"""Everything a VirtRigaud provider shares: Driver protocol, planner, operations, watch hub, gRPC servicers."""
