"""Brokers: the generated mosquitto configuration, and brokers that run as part of something.

:func:`~fleet.broker.mosquitto.write_configuration` is for real use: mutual TLS and access
control. :class:`~fleet.broker.run.MosquittoBroker` and
:class:`~fleet.broker.run.EmbeddedBroker` run one for a demo, a rehearsal or a test.

Not here: who may do what: it is given the access lists and writes them.
"""

from fleet.broker.mosquitto import Credentials, write_configuration
from fleet.broker.run import EmbeddedBroker, MosquittoBroker

__all__ = ["Credentials", "EmbeddedBroker", "MosquittoBroker", "write_configuration"]
