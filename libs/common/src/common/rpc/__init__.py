"""gRPC for betterproto2 messages, driven by the descriptors: no generated service code.

async with Server("127.0.0.1:0", server_credentials(files)) as server: ...
server.bind("virtrigaud.provider.v1.MachineService", impl)      # before entering the context

async with connect("127.0.0.1:9443", files) as channel:
    machines = stub(channel, "virtrigaud.provider.v1.MachineService")
    answer = await machines.get_machine(v1.GetMachineRequest(uid=uid), timeout=10.0)
"""

from common.rpc.binding import bind
from common.rpc.channel import Channel, connect
from common.rpc.server import ListenError, Server
from common.rpc.stubs import ResponseStream, Stub, stub

__all__ = ["Channel", "ListenError", "ResponseStream", "Server", "Stub", "bind", "connect", "stub"]
