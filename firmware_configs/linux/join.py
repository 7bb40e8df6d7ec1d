"""Joins this board to a fleet: fetched and started by the line of `shoal fleet enroll`.

The controller puts URL (its address), CA (PEM of the fleet's authority; empty: the system's) and
UNIT (of systemd) before this text. The token comes on standard input. Needs Python alone, also an
old one, which is then told what is needed. Nothing is fetched from anywhere else.

On a stick of `shoal fleet enroll --usb` STICK stands before it too: what the board becomes, and the
releases that lie beside this file with the device's agent.yaml. The network is not asked then.

Until the device is enrolled, whatever fails takes back all that was done and leaves the token
unused. After that the same line goes on where it stopped: the key is kept.

Over 400 lines: a board fetches one file and has nothing else.
"""

import errno
import fcntl
import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from urllib.parse import urlsplit

BASE = "/opt"
HOME = BASE + "/shoal"
WORK = BASE + "/.shoal-joining"
ETC = "/etc/shoal"
CONFIG = ETC + "/agent.yaml"
PENDING = ETC + "/.agent.yaml.enrolling"
STATE = "/var/lib/shoal"
SERVICE = "shoal-agent.service"
UNIT_FILE = "/etc/systemd/system/" + SERVICE
LOCK = "/run/lock/shoal-joining"
NO_CHECK_TIME = 0x200000
OLDEST = (3, 10)
PATIENCE_S = 30
TRIES = 6
CLAIM = "claim_"
SERIALS = (
    "/proc/device-tree/serial-number", "/sys/firmware/devicetree/base/serial-number",
    "/sys/class/dmi/id/product_serial", "/sys/class/dmi/id/board_serial")
MACHINE = "/etc/machine-id"
WHEEL = re.compile(r"wheels/[A-Za-z0-9][A-Za-z0-9_.+-]*\.whl\Z")
MACHINES = {"x86_64": "x86-64", "aarch64": "aarch64", "armv7l": "armv7l", "armv8l": "armv7l"}


class Stop(Exception):
    """What went wrong, for a person; nothing is left behind."""


def say(text):
    """One line of progress."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# The controller. -----------------------------------------------------------------------------


def context(check_time=True):
    """TLS that believes the fleet's authority alone."""
    made = ssl.create_default_context(cadata=CA) if CA else ssl.create_default_context()  # noqa: F821
    if not check_time:
        made.verify_flags |= NO_CHECK_TIME
    return made


def connect(check_time=True):
    """A connection to the controller, without proxies: as the agent's will be."""
    parts = urlsplit(URL)  # noqa: F821
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    more = {"context": context(check_time)} if parts.scheme == "https" else {}
    return kind(parts.hostname, parts.port, timeout=PATIENCE_S, **more)


def prefix():
    """What stands before a path in the controller's URL."""
    return urlsplit(URL).path.rstrip("/")  # noqa: F821


def unreachable(error):
    """Why the controller cannot be asked, in one line with what to do."""
    where = URL  # noqa: F821
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_code in (9, 10):
        return clock()
    if isinstance(error, ssl.SSLError):
        return "%s is not the controller of this fleet: %s" % (
            where, getattr(error, "verify_message", "") or error)
    if isinstance(error, socket.gaierror):
        text = "the name in %s is not known here: look at the board's DNS" % where
    elif isinstance(error, ConnectionRefusedError):
        text = "nothing listens at %s: is the controller running (shoal fleet up)?" % where
    elif isinstance(error, socket.timeout):
        text = "%s does not answer within %d s: a firewall, or no route" % (where, PATIENCE_S)
    elif getattr(error, "errno", None) in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        text = "no network of this board leads to %s: look at its cable or Wi-Fi, its address and " \
               "its gateway (ip route)" % where
    else:
        text = "cannot reach %s: %s" % (where, error)
    proxies = [name for name in ("https_proxy", "HTTPS_PROXY", "all_proxy") if os.environ.get(name)]
    if proxies:
        text += " (%s is set; a board reaches its controller directly, as its agent does)" % (
            proxies[0])
    return text


def clock():
    """The message for a clock at which the fleet's certificates do not count."""
    theirs = "unknown"
    try:
        one = connect(check_time=False)
        one.request("GET", prefix() + "/join/ca")
        theirs = one.getresponse().getheader("Date", theirs)
    except (OSError, http.client.HTTPException):
        pass
    mine = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
    return (
        "the clock of this board is wrong: it says %s, the controller's %s; set it, for example "
        "sudo date -u -s '%s', and type the same line again" % (mine, theirs, theirs))


def ask(path, body):
    """Sends JSON and returns JSON."""
    data = json.dumps(body).encode()
    one = connect()
    try:
        one.request("POST", prefix() + path, data, {"Content-Type": "application/json"})
        answer = one.getresponse()
        text = answer.read(1 << 20)
    except (OSError, http.client.HTTPException) as error:
        raise Stop(unreachable(error))
    finally:
        one.close()
    try:
        found = json.loads(text.decode())
        error = found.get("error") if isinstance(found, dict) else {"message": ""}
    except ValueError:
        error = {"message": ""}
    if error is not None or answer.status != 200:
        message = (error or {}).get("message") or "it answers with status %d" % answer.status
        raise Stop("the controller refuses: %s" % message)
    return found


def download(token, sha256, size, target):
    """Fetches the archive, going on where it broke off, and checks it."""
    for attempt in range(TRIES):
        have = os.path.getsize(target) if os.path.exists(target) else 0
        if have >= size:
            break
        if attempt:
            time.sleep(min(2 ** attempt, 10))
        try:
            part(token, sha256, have, target)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, ssl.SSLError) or attempt == TRIES - 1:
                raise Stop("the download broke off: " + unreachable(error))
    checked(sha256, size, target,
            "what was downloaded is not the signed release: type the same line again")


def checked(sha256, size, target, wrong):
    """Whether a file is the one that was signed."""
    digest = hashlib.sha256()
    with open(target, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    if os.path.getsize(target) != size or digest.hexdigest() != sha256:
        raise Stop(wrong)


def part(token, sha256, have, target):
    """One request for what is missing."""
    one = connect()
    try:
        headers = {"Shoal-Token": token}
        if have:
            headers["Range"] = "bytes=%d-" % have
        one.request("GET", prefix() + "/v1/join/releases/" + sha256, headers=headers)
        answer = one.getresponse()
        if answer.status not in (200, 206):
            raise Stop("the controller refuses the download: status %d" % answer.status)
        with open(target, "r+b" if answer.status == 206 else "wb") as sink:
            sink.seek(have if answer.status == 206 else 0)
            for chunk in iter(lambda: answer.read(1 << 16), b""):
                sink.write(chunk)
    finally:
        one.close()


def claim(token, given):
    """The one-time token of this board, by the claim token of a line that is for many boards."""
    found = [given] if given else [serial for serial in map(content, SERIALS) if serial]
    if not found:
        raise Stop("this board has no serial number that can be read; say it: echo TOKEN SERIAL | "
                   "and the rest of the line")
    machine = content(MACHINE)
    if len(machine) < 16:
        raise Stop("this board has no %s: run systemd-machine-id-setup, and type the same line "
                   "again" % MACHINE)
    # The id itself is not for others to know.
    machine = hashlib.sha256(("shoal/" + machine).encode()).hexdigest()
    plan = ask("/v1/claim", {"token": token, "serial": found[0], "machine": machine})
    say("this board, %s, is %s" % (found[0], plan["device"]))
    return plan["token"]


def content(path):
    """A small file's text, without what pads it; empty: there is none."""
    try:
        with open(path, "rb") as stream:
            text = stream.read(200).decode("ascii", "replace")
    except OSError:
        return ""
    return "".join(c for c in text if c.isprintable()).strip()


# A stick. ------------------------------------------------------------------------------------


def beside(name):
    """A file on the stick."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), name)


def stick():
    """What the stick of this script makes of a board; None: there is none, the controller says."""
    return globals().get("STICK")


def planned(found, choices):
    """The plan of a stick, for the first of this board's Pythons that it has a release for."""
    for platform_, python, _ in choices:
        for release in found["releases"]:
            if (release["platform"], release["python"]) == (platform_, python):
                return dict(found, release=release, used=False)
    has = ["%s with Python 3.%s" % (one["platform"], one["python"][3:]) for one in found["releases"]]
    raise Stop("the stick is for another board: it has the agent for %s, and this is %s with "
               "Python 3.%s" % (", ".join(has), choices[0][0], choices[0][1][3:]))


def copied(release, target):
    """The release of the stick, checked."""
    name = release["sha256"] + ".zip"
    try:
        shutil.copyfile(beside(name), target)
    except OSError as error:
        raise Stop("%s on the stick cannot be read: %s" % (name, error.strerror))
    checked(release["sha256"], release["size"], target,
            "%s on the stick is damaged: write the stick again" % name)


def identity(device):
    """The device's configuration, with its key, from the stick; it is for one board."""
    try:
        with open(beside("agent.yaml"), encoding="utf-8") as stream:
            text = stream.read(1 << 20)
    except OSError:
        raise Stop("the stick has no agent.yaml any more: another board became %s with it; write "
                   "the stick again (shoal fleet enroll --replace --usb)" % device)
    write(CONFIG, text, 0o600)
    sync(ETC)


def used_up():
    """Takes the key off the stick: a second board would be a copy of this one."""
    try:
        os.unlink(beside("agent.yaml"))
    except OSError:
        say("the stick cannot be written: delete agent.yaml on it, it holds this board's key")


# The board. ----------------------------------------------------------------------------------


def pythons():
    """Platform, Python and program of each interpreter that would do, the best first."""
    found = []
    names = ["python3"] + ["python3.%d" % minor for minor in range(14, OLDEST[1] - 1, -1)]
    tell = "import sys; print('%d %d %d' % (sys.version_info[:2] + (sys.maxsize > 2**32,)))"
    for program in [sys.executable] + [shutil.which(name) for name in names]:
        if not program:
            continue
        done = subprocess.run(
            [program, "-I", "-c", tell], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        numbers = done.stdout.decode("ascii", "replace").split()
        if done.returncode or len(numbers) != 3 or (int(numbers[0]), int(numbers[1])) < OLDEST:
            continue
        where = MACHINES.get(platform.machine())
        if where == "aarch64" and numbers[2] == "0":
            where = "armv7l"
        one = (where, "cp%s%s" % (numbers[0], numbers[1]))
        if where and one not in [known[:2] for known in found]:
            found.append(one + (program,))
    if not found:
        raise Stop(
            "Python %d.%d or newer is needed, and Linux on x86-64, aarch64 or armv7l; found are "
            "Python %s on %s" % (OLDEST + (platform.python_version(), platform.machine())))
    return found


def told(command, what, **more):
    """Runs a program; its last line is the reason when it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    if done.returncode:
        lines = done.stdout.decode("utf-8", "replace").strip().splitlines() or ["it said nothing"]
        raise Stop("%s: %s" % (what, lines[-1].replace("error: ", "", 1)[:400]))


def unpack(archive, folder):
    """Writes the wheels of an archive whose bytes are the signed ones."""
    with zipfile.ZipFile(archive) as source:
        for info in source.infolist():
            if info.filename == "release.json":
                continue
            if not WHEEL.match(info.filename):
                raise Stop("the release holds %r, which is no wheel" % info.filename[:100])
            with source.open(info) as stream, open(
                    os.path.join(folder, info.filename.split("/")[1]), "wb") as sink:
                shutil.copyfileobj(stream, sink)


def install(program, wheels, version, home):
    """An environment of its own, from the wheels alone."""
    pips = sorted(name for name in os.listdir(wheels) if name.startswith("pip-"))
    without = ["--without-pip"] if pips else []
    told([program, "-I", "-m", "venv"] + without + [home],
         "Python's venv does not work (apt-get install python3-venv)")
    python = home + "/bin/python"
    pip = [os.path.join(wheels, pips[-1], "pip")] if pips else ["-m", "pip"]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PIP_")}
    clean["PIP_CONFIG_FILE"] = os.devnull
    told([python] + pip + [
        "install", "--quiet", "--no-index", "--no-cache-dir", "--disable-pip-version-check",
        "--no-input", "--find-links", wheels, "shoal==" + version] + (["pip"] if pips else []),
         "the wheels cannot be installed", env=clean)
    told([home + "/bin/shoal-agent", "--help"], "the installed agent does not start")


def account():
    """The agent's own user; True: it was made."""
    made = subprocess.run(["id", "-u", "shoal"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode != 0
    if made:
        told(["useradd", "--system", "--home-dir", STATE, "--no-create-home", "--shell",
              "/usr/sbin/nologin", "shoal"], "the user shoal cannot be made")
    # Readers of the board's temperature, where the board has such a group.
    subprocess.run(["usermod", "--append", "--groups", "video", "shoal"],
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return made


def known():
    """Fleet and device of a configuration that is here."""
    found = {}
    with open(CONFIG, encoding="utf-8") as stream:
        for line in stream:
            name, _, value = line.partition(":")
            if name in ("fleet", "device"):
                found[name] = value.strip().strip("'\"")
    return found.get("fleet"), found.get("device")


def enrol(home, token):
    """Makes the key here, and has it signed: what uses the token up."""
    secret, authority = WORK + "/token", WORK + "/ca.pem"
    write(secret, token, 0o600)
    command = [home + "/bin/shoal-agent", "enroll", "--url", URL, "--token-file", secret,  # noqa: F821
               "--config", CONFIG]
    if CA:  # noqa: F821
        write(authority, CA, 0o600)  # noqa: F821
        command += ["--ca", authority]
    told(command, "not enrolled")


def leaving():
    """Says which texts may leave this board, as the configuration provides; for its owner."""
    with open(CONFIG, encoding="utf-8") as stream:
        rules = [line.strip() for line in stream]
    if "share_text: true" in rules or "share: hard" in rules:
        say("this fleet's settings let texts leave this board: look for share and share_text in "
            "%s, and change them if you own it" % CONFIG)


def adopt():
    """The configuration as the service reads it; replaced whole."""
    with open(CONFIG, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    if not any(line.startswith("state_dir: /") for line in lines):
        lines = [line for line in lines if not line.startswith("state_dir:")]
        lines.append("state_dir: " + STATE)
    new = CONFIG + ".new"
    write(new, "\n".join(lines) + "\n", 0o600)
    shutil.chown(new, "root", "shoal")
    os.chmod(new, 0o640)
    os.replace(new, CONFIG)
    sync(ETC)


def switch(home):
    """Makes this environment the one that is used."""
    if os.path.realpath(HOME) == home:
        return
    # What is installed now is what runs: releases that came over the air go.
    subprocess.run(["systemctl", "stop", SERVICE], stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    shutil.rmtree(STATE + "/program", ignore_errors=True)
    before = os.path.realpath(HOME) if os.path.islink(HOME) else None
    if os.path.isdir(HOME) and not os.path.islink(HOME):
        before = HOME + ".before"
        shutil.rmtree(before, ignore_errors=True)
        os.rename(HOME, before)
    link = HOME + ".new"
    if os.path.lexists(link):
        os.unlink(link)
    os.symlink(home, link)
    os.replace(link, HOME)
    sync(BASE)
    if before and before != home and before.startswith(BASE + "/shoal"):
        shutil.rmtree(before, ignore_errors=True)


def write(path, text, mode):
    """A whole file, on the disk before this returns."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(path, flags, mode), "w", encoding="utf-8") as stream:
        os.fchmod(stream.fileno(), mode)
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def sync(folder):
    """Makes renames in a folder last."""
    handle = os.open(folder, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def start():
    """The service, now and at each boot."""
    write(UNIT_FILE, UNIT, 0o644)  # noqa: F821
    for words in (["daemon-reload"], ["enable", SERVICE], ["restart", SERVICE]):
        told(["systemctl"] + words, "the device is enrolled, but its agent does not start "
             "(journalctl -u shoal-agent)")


# All of it. ----------------------------------------------------------------------------------


def join(undo):
    """The steps; `undo` takes what must be done again when one fails."""
    if os.geteuid() != 0:
        raise Stop("root is needed: put sudo before python3")
    if not sys.platform.startswith("linux") or not shutil.which("systemctl"):
        raise Stop("a board with Linux and systemd is needed: there is no systemctl here")
    choices = pythons()
    here = known() if os.path.exists(CONFIG) else None
    if stick():
        token, plan = "", planned(stick(), choices)
    else:
        token, _, serial = sys.stdin.readline(300).strip().partition(" ")
        if not re.match(r"[A-Za-z0-9_-]{20,128}\Z", token):
            raise Stop("no token came: type the whole line as it was printed")
        if token.startswith(CLAIM):
            token = claim(token, serial.strip())
        plan = ask("/v1/join", {"token": token, "choices": [list(one[:2]) for one in choices]})
    release = plan["release"]
    if here not in (None, (plan["fleet"], plan["device"])):
        raise Stop("this board is %s of the fleet %s already: remove that first, with "
                   "sudo %s/bin/shoal-agent uninstall" % (here[1], here[0], HOME))
    if plan["used"] and here is None and not os.path.exists(PENDING):
        raise Stop("the token was used by another board: ask for a new one (shoal fleet enroll)")
    wanted = (release["platform"], release["python"])
    program = next(one[2] for one in choices if one[:2] == wanted)
    free = shutil.disk_usage(BASE).free
    if free < 6 * release["size"]:
        raise Stop("%d MB are free on %s; %d MB are needed" % (
            free // 10**6, BASE, 6 * release["size"] // 10**6))
    say("%s joins %s: agent %s, %.1f MB from %s" % (
        plan["device"], plan["fleet"], release["version"], release["size"] / 1e6,
        "this stick" if stick() else URL))  # noqa: F821
    shutil.rmtree(WORK, ignore_errors=True)
    os.mkdir(WORK, 0o700)
    undo.append(lambda: shutil.rmtree(WORK, ignore_errors=True))
    if stick():
        copied(release, WORK + "/release.zip")
    else:
        download(token, release["sha256"], release["size"], WORK + "/release.zip")
    os.mkdir(WORK + "/wheels")
    unpack(WORK + "/release.zip", WORK + "/wheels")
    home = "%s/shoal-%s-%s" % (BASE, release["version"], release["sha256"][:8])
    if os.path.realpath(HOME) != home:
        shutil.rmtree(home, ignore_errors=True)
        undo.append(lambda: shutil.rmtree(home, ignore_errors=True))
        install(program, WORK + "/wheels", release["version"], home)
    if not os.path.isdir(ETC):
        os.mkdir(ETC, 0o750)
        undo.append(lambda: os.path.exists(PENDING) or shutil.rmtree(ETC, ignore_errors=True))
    if account():
        undo.append(lambda: subprocess.run(["userdel", "shoal"], stderr=subprocess.DEVNULL))
    shutil.chown(ETC, "root", "shoal")
    os.chmod(ETC, 0o750)
    if here is None and stick():
        identity(plan["device"])
    elif here is None:
        enrol(home, token)
    undo[1:] = []
    adopt()
    leaving()
    switch(home)
    start()
    if stick():
        used_up()
    return plan


def main():
    """Joins; one line says what came of it."""
    undo = []

    def ended(number, frame):
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ended)
    os.umask(0o022)
    code = 1
    try:
        with open(LOCK, "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Stop("this board is joining already: wait for that to end")
            plan = join(undo)
        say("%s is in the fleet %s; its agent runs: systemctl status shoal-agent" % (
            plan["device"], plan["fleet"]))
        code = 0
    except Stop as error:
        sys.stderr.write("error: %s\n" % error)
    except KeyboardInterrupt:
        sys.stderr.write("error: ended from outside\n")
    except Exception as error:
        sys.stderr.write("error: %s: %s\n" % (type(error).__name__, error))
    finally:
        for step in reversed(undo):
            step()
    return code


if __name__ == "__main__":
    sys.exit(main())
