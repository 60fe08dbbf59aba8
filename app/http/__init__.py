"""The service over HTTP: parsing, routes, streaming, errors, the OpenAPI document. Nothing here runs a model."""
