"""Who is of the fleet, towards all that has to know: broker, database, identity, the device.

:mod:`~fleet.enforcement` (what the broker enforces), :mod:`~fleet.membership.leaving`
(revoked, retired, renamed), :mod:`~fleet.membership.replacing` (another board in its place),
:mod:`~fleet.membership.watch` (what the broker has not read yet).
Certificates themselves are in :mod:`fleet.identity`, rows in :mod:`fleet.store`.

Not here: how a certificate is made, and pages or commands that ask for all this.
"""
