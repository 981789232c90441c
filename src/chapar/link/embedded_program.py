"""The program that is the built-in broker, which `embedded.py` starts with the path of its configuration.

It imports nothing of ours: every start of a gateway waits until this one listens.
"""

import logging
import os
import signal
import sys
import threading

from iotcore import IotCoreBroker


def serve(config: str) -> None:
    """Be the broker until standard input ends, which it does when the gateway is gone."""
    # What the terminal or a service manager sends to the whole group is for the gateway; we end after it.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.disable()  # rumqttd logs every packet
    threading.Thread(target=_end_with_standard_input, daemon=True).start()
    IotCoreBroker(config_path=config).run_forever()


def _end_with_standard_input() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)  # the broker's threads cannot be asked to end


if __name__ == "__main__":
    serve(sys.argv[1])
