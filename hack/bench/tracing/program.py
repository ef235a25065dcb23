"""The runtime of the tracing benchmark as a separate process, which answers at once.

python -m hack.bench.tracing.program SOCKET
"""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from cri_proxy.cri import api_pb2, methods
from hack.testbed.fake_runtime import Context, FakeRuntime

_VERSION = api_pb2.VersionResponse(
    version="0.1.0", runtime_name="none", runtime_version="1", runtime_api_version="v1"
)


async def _serve(socket: Path) -> None:
    async with FakeRuntime(socket) as runtime:
        numbers = itertools.count()

        async def create(payloads: AsyncIterator[bytes], context: Context) -> None:
            async for _ in payloads:
                pass
            made = api_pb2.CreateContainerResponse(container_id=f"container-{next(numbers)}")
            runtime.calls.clear()  # which otherwise grows with every call
            await context.write(made.SerializeToString())

        sandbox = api_pb2.RunPodSandboxResponse(pod_sandbox_id="sandbox")
        runtime.on(methods.path_of("CreateContainer"), create)
        runtime.answer(methods.path_of("RunPodSandbox"), sandbox)
        runtime.answer(methods.path_of("StartContainer"), api_pb2.StartContainerResponse())
        runtime.answer(methods.path_of("ListContainers"), api_pb2.ListContainersResponse())
        runtime.answer(methods.path_of("Version"), _VERSION)
        stopped = asyncio.Event()
        for each in signal.SIGTERM, signal.SIGINT:
            asyncio.get_running_loop().add_signal_handler(each, stopped.set)
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
