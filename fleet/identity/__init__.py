"""Who a device is: the fleet's certificate authority, enrolment, renewal, revocation.

One module a concept: :mod:`~fleet.identity.authority` (what is signed),
:mod:`~fleet.identity.registry` (what was issued, one-time tokens),
:mod:`~fleet.identity.own` (what broker and controller hold, the revocation list, access),
:mod:`~fleet.identity.devices` (devices enrol, renew and leave),
:mod:`~fleet.identity.enrolment` (what an enrolment is made of),
:mod:`~fleet.identity.provisioning` (the file that goes to a device). No database of the
controller and no network: who calls, looks after both.

Not here: rows of devices (:mod:`fleet.store`), what the broker enforces
(:mod:`fleet.enforcement`).
"""

from fleet.identity.devices import Identity
from fleet.identity.enrolment import Enrolment

__all__ = ["Enrolment", "Identity"]
