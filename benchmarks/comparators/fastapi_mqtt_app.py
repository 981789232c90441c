"""fastapi-mqtt as its README starts it: publish, and wait for nothing. Nothing is saved."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi_mqtt import FastMQTT, MQTTConfig
from pydantic import BaseModel

mqtt = FastMQTT(config=MQTTConfig(host="127.0.0.1", port=int(os.environ["BROKER_PORT"])))


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    await mqtt.mqtt_startup()
    yield
    await mqtt.mqtt_shutdown()


# Telemetry is off, as in the gateway and in the empty endpoint.
app = FastAPI(
    lifespan=lifespan, telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
)


class Send(BaseModel):
    imei: str
    micro_op: str


@app.post("/send", status_code=201)
async def send(send: Send) -> dict[str, str]:
    topic = f"devices/{send.imei}"
    mqtt.publish(topic, send.micro_op)
    return {"detail": f"Send `{send.micro_op}` to topic `{topic}`"}
