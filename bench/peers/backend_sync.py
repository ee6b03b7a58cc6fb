"""Our backend with handlers on threads, as a user writes it: ``python backend_sync.py PORT``. It is on uvloop, too."""

import sys

from pystrands import PyStrandsClient


class Backend(PyStrandsClient):
    """``/echo/...`` answers the sender, ``/all/...`` everybody, anything else the room."""

    def on_message(self, message, context):
        if context.room_id.startswith("/echo"):
            self.send_private_message(context.client_id, message)
        elif context.room_id.startswith("/all"):
            self.broadcast_message(message)
        else:
            self.send_room_message(context.room_id, message)


if __name__ == "__main__":
    Backend(port=int(sys.argv[1])).run_forever()
