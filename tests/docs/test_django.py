"""The recipe for Django's session cookie, with a real Django and its sessions, users and passwords."""

import subprocess
import sys

from tests.docs.blocks import PAGES, blocks

PROGRAM = """
import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "db.sqlite3"}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    SECRET_KEY="secret",
)
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.test import Client

from pystrands import PyStrandsClient, testing

call_command("migrate", verbosity=0)
user = User.objects.create_user("ada", password="first")
recipe = {}
exec(open("recipe.py").read(), recipe)


class Backend(PyStrandsClient):
    on_connection_request = recipe["on_connection_request"]

    def on_message(self, message, context):
        self.send_private_message(context.client_id, context.metadata["user"])


def session():
    browser = Client()
    browser.force_login(user)
    return browser.cookies[settings.SESSION_COOKIE_NAME].value


def knock(cookie):
    try:
        with testing.connect_sync(broker, "/", headers={"Cookie": cookie} if cookie else {}) as client:
            client.send("who am I?")
            return client.receive()
    except testing.Rejected as error:
        return error.status


with testing.broker_thread() as broker, testing.backend_thread(broker, Backend):
    good = f"sessionid={session()}"
    print("in", knock(good), user.pk)
    print("beside JSON", knock('prefs={"theme":"dark"}; ' + good), user.pk)
    print("no cookie", knock(None))
    print("unknown", knock("sessionid=0"))
    user.set_password("second")
    user.save()
    print("after a change of the password", knock(good))
    good = f"sessionid={session()}"
    print("in again", knock(good), user.pk)
    user.is_active = False
    user.save()
    print("no longer active", knock(good))
"""


def test_a_session_that_django_has_ended_lets_nobody_in(tmp_path):
    page = next(page for page in PAGES if page.name == "from-channels.md")
    (recipe,) = (block.code for block in blocks(page, "python") if "SESSION_COOKIE_NAME" in block.code)
    (tmp_path / "recipe.py").write_text(recipe, "utf-8")
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=50, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [
        "in 1 1",
        "beside JSON 1 1",
        "no cookie 403",
        "unknown 403",
        "after a change of the password 403",
        "in again 1 1",
        "no longer active 403",
    ]
