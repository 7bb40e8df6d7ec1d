"""Serving: requests from MQTT and local sources, through one queue and one worker.

To add an operation, register it: ``registry.add(Operation("generate", GenerateRequest,
handler))``. A handler is ``handler(request, reply)``; it runs on the worker, asks
:attr:`Reply.cancelled` and :meth:`Reply.expired` between steps, sends chunks with
:meth:`Reply.chunk` and ends with exactly one :meth:`Reply.finish` or :meth:`Reply.fail`.
A :class:`contracts.errors.ShoalError` that it raises becomes the error answer.

Not here: what a model does with a request: that is the handler of its operation.
"""
