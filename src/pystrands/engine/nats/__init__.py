"""Several brokers on NATS."""
