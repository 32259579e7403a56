"""A server that clients of the OpenAI API talk to: models, queues, limits, keys, figures, and one file a route."""
