"""The built-in broker as its devices see it."""

from support.devices import Device
from support.ports import free_ports


class BuiltinBroker:
    """Its ports and devices. It runs while a gateway does, or an `EmbeddedBroker` on `port`: start devices then."""

    def __init__(self) -> None:
        self.port = free_ports(2)  # MQTT 3.1.1, and MQTT 5 on the next

    @property
    def settings_env(self) -> dict[str, str]:
        """The gateway's variables that lead here."""
        return {"CHAPAR_EMBEDDED_PORT": str(self.port)}

    def device(self, imei: str, *, mqtt5: bool = False, persistent: bool = False) -> Device:
        """A device of this broker, not yet started."""
        return Device(self.port + 1 if mqtt5 else self.port, imei, mqtt5=mqtt5, persistent=persistent)
