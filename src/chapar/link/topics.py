"""Topics of devices: a template with `{imei}` read the other way round, from topic to device."""

from typing import Final

from chapar.errors import FieldInvalid
from chapar.model.message import check_device_id

_DEVICE: Final = "{imei}"


class DeviceTopics:
    """The topics that one template makes, one for each device.

    >>> replies = DeviceTopics("devices/{imei}/reply")
    >>> replies.filter, replies.of("861234"), replies.device("devices/861234/reply")
    ('devices/+/reply', 'devices/861234/reply', '861234')
    """

    def __init__(self, template: str) -> None:
        self._template = template
        self._before, _, self._behind = template.partition(_DEVICE)
        levels = ("+" if _DEVICE in level else level for level in template.split("/"))
        self.filter = "/".join(levels)  #: MQTT's wildcard takes a whole level (MQTT 5.0 §4.7.1.3)

    def of(self, device: str) -> str:
        """The topic of a device."""
        return self._template.replace(_DEVICE, device)

    def device(self, topic: str) -> str | None:
        """Return the device whose topic this is; None where it is no device's.

        Digits are not folded: a broker's ACL takes Persian ones for another name, so they are another device's here.
        """
        if not topic.startswith(self._before) or not topic.endswith(self._behind):
            return None
        name = topic[len(self._before) : len(topic) - len(self._behind)]
        try:
            return name if check_device_id(name) == name else None
        except FieldInvalid:
            return None
