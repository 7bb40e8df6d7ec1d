"""Files that survive a power cut: written whole beside the old one, then renamed over it."""

import json
import os

from .errors import Refused


def exists(path):
    """Whether a file or folder is there."""
    try:
        os.stat(path)
        return True
    except OSError:
        return False


def size(path):
    """Bytes of a file; -1 where there is none."""
    try:
        return os.stat(path)[6]
    except OSError:
        return -1


def make_folder(path):
    """Makes a folder and those above it."""
    at = ""
    for part in path.split("/"):
        at += part
        if at and not exists(at):
            os.mkdir(at)
        at += "/"


def remove(path):
    """Removes a file if it is there."""
    try:
        os.remove(path)
    except OSError:
        pass


def empty_folder(path):
    """Removes the files of a folder."""
    if exists(path):
        for name in os.listdir(path):
            remove(path + "/" + name)


def write(path, data):
    """Replaces a file; after a power cut it is the old or the new one, whole.

    littlefs makes a file's content durable when it is closed, and renames atomically.
    """
    with open(path + ".new", "wb") as stream:
        stream.write(data)
    os.rename(path + ".new", path)


def write_json(path, value):
    """Replaces a JSON file."""
    write(path, json.dumps(value).encode())


def read_json(path, default=None):
    """A JSON file; `default` where it is missing. A damaged one counts as missing."""
    try:
        with open(path) as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return default


def checked_name(name):
    """A plain file name from outside; raises ``bad-manifest`` for anything else."""
    good = isinstance(name, str) and 0 < len(name) <= 64 and name[0] not in "._-"
    if not good or not all(c in _NAME for c in name):
        raise Refused("bad-manifest", "a file name is not plain: %s" % str(name)[:64])
    return name


_NAME = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-"
