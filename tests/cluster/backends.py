"""The backend of these tests, and brokers that have one each."""

from contextlib import AsyncExitStack, asynccontextmanager

from pystrands import AsyncPyStrandsClient
from pystrands.testing import backend
from tests.cluster.together import brokers


class Named(AsyncPyStrandsClient):
    """Lets clients choose their id by the path, puts them into the lobby, and keeps what it hears."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.heard = []
        self.errors = []

    def names(self, what):
        """The ids of the clients of which it has heard that, in order."""
        return sorted(each[1] for each in self.heard if each[0] == what)

    async def on_connection_request(self, request):
        request.context.client_id = request.url.strip("/")
        request.context.room_id = "lobby"
        request.context.metadata = {"name": request.context.client_id}

    async def on_new_connection(self, context):
        self.heard.append(("new", context.client_id))

    async def on_disconnect(self, context):
        self.heard.append(("gone", context.client_id))

    async def on_error(self, error, context):
        self.errors.append(error)


@asynccontextmanager
async def cluster(count=2, together=None, **options):
    """Run brokers with a backend each; yield these pairs."""
    async with brokers(count, together, **options) as running, AsyncExitStack() as stack:
        yield [(broker, await stack.enter_async_context(backend(broker, Named))) for broker in running]
