"""/openapi.json: an OpenAPI 3.1 description of what this server answers now, made of the signatures that it has loaded.

https://spec.openapis.org/oas/v3.1.1.html
"""
