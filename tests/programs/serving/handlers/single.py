"""The second listing of the document: complete control over the request."""

import json

import requests


def handler(data, context):
    """Handle request.
    Args:
        data (obj): the request data
        context (Context): an object containing request and configuration details
    Returns:
        (bytes, string): data to return to client, (optional) response content type
    """
    processed_input = _process_input(data, context)
    response = requests.post(context.rest_uri, data=processed_input)
    return _process_output(response, context)


def _process_input(data, context):
    if context.request_content_type == "application/json":
        # pass through json (assumes it's correctly formed)
        d = data.read().decode("utf-8")
        return d if len(d) else ""

    if context.request_content_type == "text/csv":
        # very simple csv handler
        return json.dumps({"instances": [float(x) for x in data.read().decode("utf-8").split(",")]})

    raise ValueError('{{"error": "unsupported content type {}"}}'.format(context.request_content_type or "unknown"))


def _process_output(data, context):
    if data.status_code != 200:
        raise ValueError(data.content.decode("utf-8"))

    response_content_type = context.accept_header
    prediction = data.content
    return prediction, response_content_type
