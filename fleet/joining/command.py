"""The one line that is typed on a board: it fetches the installer from this fleet and no other.

What the line carries decides whom it believes. It asks, over TLS that nobody vouches for yet, for
the fleet's authority; what comes must have the SHA-256 in the line. From then on only a server
with a certificate of that authority, for the controller's own address, is believed: it gives the
installer. Times are not compared until the installer does: a board without a clock must be able
to say so. The token goes through a pipe: a command line is for all users of a board to read.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable

from fleet.folder import Fleet
from fleet.joining import installer

_FETCH = """\
import sys,ssl,hashlib,urllib.request as r;\
U={url};\
sys.excepthook=lambda t,e,b:print("error: cannot reach",U,"-",e,file=sys.stderr);\
g=lambda p,c:r.build_opener(r.ProxyHandler({{}}),r.HTTPSHandler(context=c)).open(U+p,timeout=30)\
.read(1<<20);\
"""
_OWN = """\
d=g("/join/ca",ssl._create_unverified_context());\
hashlib.sha256(d).hexdigest()=="{fingerprint}" or sys.exit("error: what answers at "+U+" is \
another fleet than this line is for, or somebody in between: nothing was run");\
c=ssl.create_default_context(cadata=d);c.verify_flags|=0x200000;\
"""
_SYSTEM = "c=ssl.create_default_context();"
_RUN = 'exec(g("/join/install",c))'


def line(fleet: Fleet, token: str) -> str:
    """What is typed on the board, for a shell."""
    der = installer.authority(fleet)
    url = '"' + "".join(c for c in fleet.api_url if c.isprintable() and c not in "\"'\\") + '"'
    text = _FETCH.format(url=url)
    text += _OWN.format(fingerprint=installer.fingerprint(der)) if der else _SYSTEM
    return f"echo {token} | sudo python3 -c {shlex.quote(text + _RUN)}"


def qr(text: str) -> str:
    """A text as a QR code of characters."""
    import io

    import segno

    sink = io.StringIO()
    segno.make(text, error="l", micro=False).terminal(out=sink, compact=True, border=2)
    return sink.getvalue()


def qr_svg(text: str) -> str:
    """A text as a QR code for a page: SVG, inline."""
    import segno

    drawn: str = segno.make(text, error="l", micro=False).svg_inline(scale=3, border=4)
    return drawn


def script(lines: Iterable[tuple[str, str]]) -> str:
    """Lines of several devices, each below the name of its own."""
    return "".join(f"# {device}\n{text}\n" for device, text in lines)
