"""What every provider's server owes whoever dials it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest
from common import v1, wire
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from providerkit.serving import ALWAYS, DEPENDENT, PACKAGE

from .subject import OWNER, Subject

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def _channel(subject: Subject) -> Any:  # grpc.aio has no usable static types
    return grpc.aio.insecure_channel(subject.address)


async def _health(subject: Subject, service: str, wanted: int) -> None:
    """Wait, by the health service's own watch, until a service has this status."""
    async with _channel(subject) as channel, asyncio.timeout(subject.pace.settle):
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))
        async for answer in watch:
            if answer.status == wanted:
                watch.cancel()
                return


class ServerContract:
    """Identity, health, reflection, errors, the unknown."""

    async def test_it_says_what_it_is(self, subject: Subject) -> None:
        facts = await subject.provider.get_provider(v1.GetProviderRequest(), timeout=subject.pace.call)
        assert facts.type
        assert facts.version.count(".") == 2
        assert facts.hypervisor
        assert facts.owner == OWNER
        assert facts.limits.max_concurrent_changes > 0
        assert facts.capabilities != v1.Capabilities()

    async def test_check_connection_makes_a_round_trip(self, subject: Subject) -> None:
        answer = await subject.provider.check_connection(v1.CheckConnectionRequest(), timeout=subject.pace.call)
        assert answer.hypervisor
        assert answer.round_trip.total_seconds() >= 0

    @pytest.mark.parametrize("service", ["", *(f"{PACKAGE}.{name}" for name in (*ALWAYS, *DEPENDENT))])
    async def test_every_service_answers_health(self, subject: Subject, service: str) -> None:
        await _health(subject, service, SERVING)

    async def test_health_follows_the_hypervisor(self, subject: Subject) -> None:
        service = f"{PACKAGE}.MachineService"
        await _health(subject, service, SERVING)
        async with subject.world.outage():
            await _health(subject, service, NOT_SERVING)
            await _health(subject, "", NOT_SERVING)
            await _health(subject, f"{PACKAGE}.OperationService", SERVING)
        await _health(subject, service, SERVING)
        await _health(subject, "", SERVING)

    async def test_reflection_lists_every_service(self, subject: Subject) -> None:
        async def ask() -> Any:
            yield reflection_pb2.ServerReflectionRequest(list_services="")

        async with _channel(subject) as channel:
            answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(ask())
            names = {service.name async for answer in answers for service in answer.list_services_response.service}
        assert names >= {f"{PACKAGE}.{name}" for name in (*ALWAYS, *DEPENDENT)} | {"grpc.health.v1.Health"}

    async def test_errors_carry_their_reason(self, subject: Subject) -> None:
        path = f"/{PACKAGE}.MachineService/GetMachine"
        data = wire.codec(v1.GetMachineRequest).dumps(v1.GetMachineRequest(uid="not a uid"))
        async with _channel(subject) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary(path)(data, timeout=subject.pace.call)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        trailers = dict(failure.value.trailing_metadata())
        details = status_pb2.Status.FromString(trailers["grpc-status-details-bin"]).details
        info = error_details_pb2.ErrorInfo()
        assert any(detail.Unpack(info) for detail in details)
        assert (info.domain, info.reason) == ("virtrigaud.io", "InvalidSpec")

    async def test_unknown_fields_are_ignored_and_unknown_enums_refused(self, subject: Subject) -> None:
        path = f"/{PACKAGE}.MachineService/PlanMachine"
        codec = wire.codec(v1.PlanMachineRequest)
        good, bad = v1.PlanMachineRequest(spec=subject.spec()), v1.PlanMachineRequest(spec=subject.spec())
        unknown_field = b"\xfa\x3e\x03abc"  # field 1007, length-delimited
        async with _channel(subject) as channel:
            call = channel.unary_unary(path)
            answer = wire.codec(v1.PlanMachineResponse).loads(
                await call(codec.dumps(good) + unknown_field, timeout=subject.pace.call)
            )
            assert [change.kind for change in answer.changes] == [v1.ChangeKind.CREATE]
            assert bad.spec is not None
            bad.spec.disks[0].bus = v1.DiskBus(99)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await call(codec.dumps(bad), timeout=subject.pace.call)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "bus" in failure.value.details()

    @pytest.mark.parametrize("method", ["ApplyMachine", "PlanMachine", "DeleteMachine", "GetMachine", "RunPowerAction"])
    async def test_an_empty_request_is_refused_clearly(self, subject: Subject, method: str) -> None:
        async with _channel(subject) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary(f"/{PACKAGE}.MachineService/{method}")(b"", timeout=subject.pace.call)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert failure.value.details()

    async def test_garbage_is_refused(self, subject: Subject) -> None:
        async with _channel(subject) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await channel.unary_unary(f"/{PACKAGE}.MachineService/ApplyMachine")(b"\xff" * 64, timeout=5)
        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
