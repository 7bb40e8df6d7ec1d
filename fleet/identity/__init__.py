"""Who a device is: the fleet's certificate authority, enrolment, renewal, revocation.

One module a concept: :mod:`~fleet.identity.authority` (certificates and the revocation list),
:mod:`~fleet.identity.registry` (what was issued, one-time tokens),
:mod:`~fleet.identity.enrolment` (the operations),
:mod:`~fleet.identity.provisioning` (the file that goes to a device).
"""

from fleet.identity.enrolment import Enrolment, Identity

__all__ = ["Enrolment", "Identity"]
