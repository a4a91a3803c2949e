"""The client: asynchronous.AsyncClient, and synchronous.Client over it."""
