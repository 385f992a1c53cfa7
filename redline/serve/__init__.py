"""The server: the scheduler of one model behind HTTP, WebSocket and TCP doors."""
