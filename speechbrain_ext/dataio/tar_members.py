"""Sounds within uncompressed tar files, read in place."""

import contextlib
import io
import re

from speechbrain_ext.dataio.input_files import require_regular

PLACE = re.compile(r"(?s)(.*\.tar)#([0-9]{1,18})\+([0-9]{1,18})")


@contextlib.contextmanager
def opened(place):
    """Opens a sound within a tar file, as a file in which one can seek.

    Only the bytes that are asked for are read from the tar file.

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
    ValueError
        If the tar file is no regular file, or ends before the sound does.

    Example
    -------
    >>> path = getfixture("tmp_path") / "shard.tar"
    >>> _ = path.write_bytes(b"header sound padding")
    >>> with opened(f"{path}#7+5") as sound:
    ...     sound.read()
    b'sound'
    """
    found = PLACE.fullmatch(place)
    if not found:
        yield place
        return
    path, offset, size = found.groups()
    require_regular(path)
    with io.BufferedReader(_Member(path, int(offset), int(size))) as sound:
        yield sound


class _Member(io.RawIOBase):
    """A part of a file as a file."""

    def __init__(self, path, offset, size):
        self.stream = open(path, "rb", buffering=0)
        self.offset, self.size, self.place = offset, size, 0
        held = self.stream.seek(0, io.SEEK_END)
        if held < offset + size:
            self.stream.close()
            raise ValueError(
                f"{path} has {held} bytes, fewer than the {offset + size} "
                "that its index says"
            )

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
        self.stream.seek(self.offset + self.place)
        held = self.stream.read(wanted)
        buffer[: len(held)] = held
        self.place += len(held)
        return len(held)

    def close(self):
        self.stream.close()
        super().close()
