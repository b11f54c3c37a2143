"""The program ``serve``: the models under /opt/ml/model, behind /invocations and TensorFlow Serving's REST API."""
