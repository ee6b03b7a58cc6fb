"""Django, with the client for threaded code, in a single file: HTTP here, WebSockets at the broker, both in one room.

    pip install django
    pystrands server
    python examples/django_app.py

Clients at ``ws://127.0.0.1:8080/<room>`` talk to everybody in their room, and ``POST /say/<room>`` to http://127.0.0.1:8000
with a form's ``text`` says something there, too: ``curl -d text=hello http://127.0.0.1:8000/say/lobby``. ``GET /``
tells whether the broker is connected. No ASGI server and no channel layer: plain WSGI views reach every WebSocket.
"""

import os
import sys
import threading

from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import JsonResponse
from django.urls import path
from django.views.decorators.http import require_POST

from pystrands import PyStrandsClient

HOST = os.getenv("PYSTRANDS_HOST", "localhost")
PORT = int(os.getenv("PYSTRANDS_TCP_PORT", "8081"))

# In a project of yours this is settings.py. There is no CSRF middleware here, since curl has no cookie.
settings.configure(
    ALLOWED_HOSTS=["127.0.0.1", "localhost"],
    DEBUG=False,
    ROOT_URLCONF=__name__,
    SECRET_KEY=os.urandom(32).hex(),
    USE_TZ=True,
)


class Backend(PyStrandsClient):
    # Plain functions on threads of the client. Where they use the ORM, call django.db.close_old_connections() first:
    # Django does that by itself only around requests.
    def on_connection_request(self, request):
        request.context.room_id = request.url.strip("/")
        return True

    def on_message(self, message, context):
        self.send_room_message(context.room_id, f"echo: {message}")


backend = Backend(host=HOST, port=PORT)


def status(_request):
    return JsonResponse({"status": "running", "connected": backend.connected})


@require_POST
def say(request, room):
    return JsonResponse({"sent": backend.send_room_message(room, request.POST["text"])})


urlpatterns = [path("", status), path("say/<str:room>", say)]


if __name__ == "__main__":
    # In a project: in the ready() of an AppConfig, and under gunicorn in post_fork, as threads don't survive a fork.
    threading.Thread(target=backend.run_forever, name="backend", daemon=True).start()
    execute_from_command_line([sys.argv[0], "runserver", "--noreload", f"127.0.0.1:{os.getenv('HTTP_PORT', '8000')}"])
