"""The yardstick: the least that FastAPI can do with the same request, on the gateway's own server settings."""

import sys

import uvicorn
import uvloop
from fastapi import FastAPI
from pydantic import BaseModel


class Send(BaseModel):
    imei: str
    micro_op: str


def app() -> FastAPI:
    empty = FastAPI(telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False})

    @empty.post("/noop", status_code=201)
    async def noop(send: Send) -> dict[str, str]:
        return {"detail": f"Send `{send.micro_op}` to topic `devices/{send.imei}`"}

    return empty


def main() -> None:
    config = uvicorn.Config(
        app(),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
    )
    uvloop.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()
