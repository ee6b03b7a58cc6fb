"""What carries messages between brokers."""
