"""The subprotocol `pystrands.v1`: what a WebSocket client and the broker promise each other. Pure."""
