"""What many build first: publish, then save by a session that blocks, in PostgreSQL. Answers 201 by then."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, status
from fastapi_mqtt import FastMQTT, MQTTConfig
from pydantic import BaseModel
from sqlalchemy import create_engine, func
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

mqtt = FastMQTT(config=MQTTConfig(host="127.0.0.1", port=int(os.environ["BROKER_PORT"])))
engine = create_engine(os.environ["DATABASE_URL"])
sessions = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Sent(Base):
    __tablename__ = "sent"

    id: Mapped[int] = mapped_column(primary_key=True)
    imei: Mapped[str]
    micro_op: Mapped[str]
    time: Mapped[str] = mapped_column(server_default=func.now())


class Send(BaseModel):
    imei: str
    micro_op: str


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    Base.metadata.create_all(engine)
    await mqtt.mqtt_startup()
    yield
    await mqtt.mqtt_shutdown()


# Telemetry is off, as in the gateway and in the empty endpoint.
app = FastAPI(
    lifespan=lifespan, telemetry={"tracing": False, "metrics": False, "logs": False, "operation_spans": False}
)


def get_db() -> Iterator[Session]:
    with sessions() as db:
        yield db


@app.post("/send")
async def send_and_save(request: Send, db: Annotated[Session, Depends(get_db)]) -> None:
    topic = f"devices/{request.imei}"
    mqtt.publish(topic, request.micro_op)
    db.add(Sent(imei=request.imei, micro_op=request.micro_op))
    db.commit()
    raise HTTPException(status.HTTP_201_CREATED, f"Send `{request.micro_op}` to topic `{topic}`")
