"""What both ends of a link agree on: pure logic, with no sockets, no clock and no asyncio."""
