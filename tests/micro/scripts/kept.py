"""The ring of unacknowledged telemetry under MicroPython: prints what was sent with which `after`."""

import json

from micro.kept import Kept

kept = Kept("b", True, 0)
kept.connected(0)
sent, after = [], []


def send(now):
    while True:
        found = kept.next(now)
        if found is None:
            return
        sent.append(found[0].seq)
        after.append(json.loads(found[1]).get("after"))
        kept.landed(found[0], 0, now)


for number in range(2):
    kept.put(json.dumps({"boot": "b", "seq": number, "samples": []}).encode())
send(0)
kept.connected(1000)
kept.heard({"boot": "b", "seq": -1, "ahead": [[1, 1]]}, 1000)
send(1000)
kept.heard({"boot": "b", "seq": 1}, 2000)
kept.put(json.dumps({"boot": "b", "seq": 2, "samples": []}).encode())
send(2000)
print(json.dumps({"sent": sent, "after": after}))
