"""Several brokers on one machine: a parent process, workers, and the NATS server that joins them."""
