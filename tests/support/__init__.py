"""The real things the tests run against: brokers, databases, devices, the installed command."""
