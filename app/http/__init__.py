"""What the service says over HTTP: routes, parsing, streaming, the OpenAPI document."""
