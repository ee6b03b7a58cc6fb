"""Flask, with the client for threaded code: HTTP here, WebSockets at the broker, and both in one room.

    pip install flask
    pystrands server
    python examples/flask_app.py

Clients at ``ws://127.0.0.1:8080/<room>`` talk to everybody in their room, and ``POST /say/<room>`` to
http://127.0.0.1:5000 with a form's ``text`` says something there, too:
``curl -d text=hello http://127.0.0.1:5000/say/lobby``. ``GET /`` tells whether the broker is connected.
"""

import os
import threading

from flask import Flask, request

from pystrands import PyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))


class Backend(PyStrandsClient):
    # Plain functions, which run on threads of the client: not in a Flask request, so flask.request is not there.
    def on_connection_request(self, request):
        request.context.room_id = request.url.strip("/")
        return True

    def on_message(self, message, context):
        self.send_room_message(context.room_id, f"echo: {message}")


backend = Backend(host=HOST, port=PORT)
app = Flask(__name__)


@app.get("/")
def status():
    return {"status": "running", "connected": backend.connected}


@app.post("/say/<room>")
def say(room):
    # From any thread, and never mixed with what another one sends.
    return {"sent": backend.send_room_message(room, request.form["text"])}


def start():
    """Connect in the background, and keep trying. Under gunicorn call it in post_fork: threads don't survive a fork."""
    threading.Thread(target=backend.run_forever, name="backend", daemon=True).start()


if __name__ == "__main__":
    start()
    app.run(host="127.0.0.1", port=int(os.getenv("HTTP_PORT", "5000")))
