"""Which part of the broker carries out which command of a backend."""

from pystrands.broker.backends.command_table import CommandTable
from pystrands.broker.routing.commands import Commands
from pystrands.broker.routing.router import Router
from pystrands.protocol import messages

__all__ = ["command_table"]


def command_table(commands: Commands, router: Router) -> CommandTable:
    """Return the table of all commands, but for those that begin and end sessions: these are their lifecycle's."""
    table = CommandTable()
    table.on(messages.MessageToConnection, commands.on_message_to_connection)
    table.on(messages.MessageToRoom, commands.on_message_to_room)
    table.on(messages.MessageToUser, commands.on_message_to_user)
    table.on(messages.Broadcast, commands.on_broadcast)
    table.on(messages.Reply, router.client_sessions.requests.on_reply)
    table.on(messages.TokenResponse, router.client_sessions.tokens.on_response)
    table.on(messages.RequestClient, commands.on_request_client)
    table.on(messages.JoinResponse, router.client_sessions.joins.on_response)
    table.on(messages.Done, router.on_done)
    table.on(messages.Response, router.connection_requests.on_response)
    table.on(messages.RoomMembers, commands.on_room_members)
    table.on(messages.GetPresence, commands.on_presence)
    table.on(messages.SetPresence, commands.on_client_command)
    table.on(messages.KeepHistory, commands.on_keep_history)
    table.on(messages.RoomHistory, commands.on_room_history)
    table.on(messages.JoinRoom, commands.on_client_command)
    table.on(messages.LeaveRoom, commands.on_client_command)
    table.on(messages.DisconnectClient, commands.on_client_command)
    table.on(messages.DisconnectUser, commands.on_disconnect_user)
    table.on(messages.UpdateMetadata, commands.on_client_command)
    table.on(messages.Status, commands.on_status)
    table.on(messages.Watch, commands.on_watch)
    table.on(messages.Unwatch, commands.on_unwatch)
    table.on(messages.Broken, router.on_broken)
    return table
