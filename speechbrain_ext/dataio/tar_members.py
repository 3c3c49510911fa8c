"""Sounds within uncompressed tar files, read in place."""

import contextlib
import io
import os


@contextlib.contextmanager
def opened(place):
    """Opens a sound within a tar file, as a file that can be sought in.

    Only what is asked for is read of the tar file.

    Arguments
    ---------
    place : str
        ``<name>.tar#<offset>+<bytes>``, or the path of a plain file.

    Yields
    ------
    str or io.BufferedReader
        The file object, or the path itself if it is one of a plain file.

    Raises
    ------
    OSError
        If the tar file cannot be opened.

    Example
    -------
    >>> path = getfixture("tmp_path") / "shard.tar"
    >>> _ = path.write_bytes(b"header sound padding")
    >>> with opened(f"{path}#7+5") as sound:
    ...     sound.read()
    b'sound'
    """
    path, _, numbers = place.rpartition("#")
    offset, plus, size = numbers.partition("+")
    if not (path.endswith(".tar") and plus and offset.isdigit()):
        yield place
        return
    with io.BufferedReader(_Member(path, int(offset), int(size))) as sound:
        yield sound


class _Member(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path, offset, size):
        self.stream = open(path, "rb", buffering=0)
        self.offset, self.size, self.place = offset, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, place, whence=io.SEEK_SET):
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.place}
        self.place = max(0, start.get(whence, self.size) + place)
        return self.place

    def tell(self):
        return self.place

    def readinto(self, buffer):
        wanted = max(0, min(len(buffer), self.size - self.place))
        held = os.pread(self.stream.fileno(), wanted, self.offset + self.place)
        buffer[: len(held)] = held
        self.place += len(held)
        return len(held)

    def close(self):
        self.stream.close()
        super().close()
