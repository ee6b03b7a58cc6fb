"""What the conformance tests share: a raw client whose echo goes through broker and backend."""

import zlib

from tests.broker.ws.support import CLOSE, CONT, Client, frame

OCTETS, FRAMES, WHOLE = "octet by octet", "frame by frame", "in one segment"
WAYS = [WHOLE, FRAMES, OCTETS]


class Peer(Client):
    """A client whose handshake is done. It sends frames, right or wrong, and looks at what comes back."""

    def send_as(self, way, *frames):
        """Send frames in one segment, each in its own, or each octet in its own."""
        if way == WHOLE:
            self.send(b"".join(frames))
        elif way == FRAMES:
            for each in frames:
                self.send(each)
        else:
            for octet in b"".join(frames):
                self.send(bytes([octet]))

    def gets(self, *frames):
        """Check which frames come, in this order."""
        for each in frames:
            assert self.frame() == each

    def is_closed_with(self, code, *, maybe=()):
        """Check that a close frame with `code` comes and then the end of the stream.

        `maybe` is what may come before: echoes of what was sent before the error. They go through the backend, so the
        close frame may overtake them; they come in order, and none is left out but at the end.
        """
        frames, got = self.closing()
        assert got == code
        assert frames == list(maybe)[: len(frames)]

    def is_alive(self):
        """Check that a message is still echoed."""
        self.send(frame(1, "still there?"))
        self.gets((1, b"still there?"))

    def closes(self, code=1000):
        """Close in order, and check that nothing else comes."""
        self.send(frame(CLOSE, code.to_bytes(2, "big")))
        assert self.frames_to_end() == [(CLOSE, code.to_bytes(2, "big"))]

    def message(self):
        """Return the next message as (opcode, content, whether it was compressed)."""
        opcode, payload, rsv = self.any_frame()
        assert rsv in (0, 4)
        return opcode, inflated(payload) if rsv else payload, rsv == 4


def fragments(opcode, *parts, rsv=0):
    """Return the frames of a message in parts."""
    last = len(parts) - 1
    return [
        frame(CONT if index else opcode, part, fin=index == last, rsv=0 if index else rsv)
        for index, part in enumerate(parts)
    ]


def cut(data, size):
    """Return data in parts of a size; at least one."""
    return [data[start : start + size] for start in range(0, len(data), size)] or [data]


def deflated(data, *, wbits=15, level=6):
    """Return a message's data as permessage-deflate wants it."""
    deflate = zlib.compressobj(level, zlib.DEFLATED, -wbits)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


def inflated(data, wbits=15):
    """Return the message of permessage-deflate's data."""
    inflate = zlib.decompressobj(-wbits)
    message = inflate.decompress(data + b"\x00\x00\xff\xff")
    assert not inflate.eof and not inflate.unused_data, "no block may be the last"
    return message
