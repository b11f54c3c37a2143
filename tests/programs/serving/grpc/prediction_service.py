"""What tensorflow-serving-api brings handlers: the messages, on top of TensorFlow's own, and PredictionServiceStub.

The fields are those of tensorflow_serving/apis/*.proto.
"""

from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2

_PACKAGE = "tensorflow.serving"
_PLAIN = {"string": 9, "float": 2}
_MESSAGES = {
    "ModelSpec": "1 name string, 2 version .google.protobuf.Int64Value, 4 version_label string, "
    "3 signature_name string",
    "PredictRequest": "1 model_spec ModelSpec, 2 inputs map .tensorflow.TensorProto, 3* output_filter string",
    "PredictResponse": "2 model_spec ModelSpec, 1 outputs map .tensorflow.TensorProto",
    "ExampleList": "1* examples .tensorflow.Example",
    "ExampleListWithContext": "1* examples .tensorflow.Example, 2 context .tensorflow.Example",
    "Input": "1 example_list ExampleList, 2 example_list_with_context ExampleListWithContext",
    "ClassificationRequest": "1 model_spec ModelSpec, 2 input Input",
    "Class": "1 label string, 2 score float",
    "Classifications": "1* classes Class",
    "ClassificationResult": "1* classifications Classifications",
    "ClassificationResponse": "1 result ClassificationResult, 2 model_spec ModelSpec",
    "RegressionRequest": "1 model_spec ModelSpec, 2 input Input",
    "Regression": "1 value float",
    "RegressionResult": "1* regressions Regression",
    "RegressionResponse": "1 result RegressionResult, 2 model_spec ModelSpec",
    "GetModelMetadataRequest": "1 model_spec ModelSpec, 2* metadata_field string",
    "SignatureDefMap": "1 signature_def map .tensorflow.SignatureDef",
    "GetModelMetadataResponse": "1 model_spec ModelSpec, 2 metadata map .google.protobuf.Any",
    "MultiInferenceRequest": "",
    "MultiInferenceResponse": "",
}
_METHODS = {
    "Predict": "Predict",
    "Classify": "Classification",
    "Regress": "Regression",
    "GetModelMetadata": "GetModelMetadata",
    "MultiInference": "MultiInference",
}


def _file():
    modules = (any_pb2, example_pb2, meta_graph_pb2, tensor_pb2, wrappers_pb2)
    file = descriptor_pb2.FileDescriptorProto(
        name="prediction_service.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[module.DESCRIPTOR.name for module in modules],
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field in filter(None, fields.split(", ")):
            _add(message, *field.split())
    return file


def _add(message, number, name, *kinds):
    field = message.field.add(name=name, number=int(number.rstrip("*")), label=3 if number.endswith("*") else 1)
    if kinds[0] == "map":
        entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
        entry.options.map_entry = True
        _add(entry, "1", "key", "string")
        _add(entry, "2", "value", kinds[1])
        kinds, field.label = (f".{_PACKAGE}.{message.name}.{entry.name}",), 3
    if kinds[0] in _PLAIN:
        field.type = _PLAIN[kinds[0]]
    else:
        field.type, field.type_name = 11, kinds[0] if kinds[0][0] == "." else f".{_PACKAGE}.{kinds[0]}"


_described = descriptor_pool.Default().AddSerializedFile(_file().SerializeToString())
if _described is None:
    _described = descriptor_pool.Default().FindFileByName("prediction_service.proto")
globals().update({name: message_factory.GetMessageClass(_described.message_types_by_name[name]) for name in _MESSAGES})


class PredictionServiceStub:
    def __init__(self, channel):
        for method, message in _METHODS.items():
            call = channel.unary_unary(
                f"/{_PACKAGE}.PredictionService/{method}",
                request_serializer=globals()[f"{message}Request"].SerializeToString,
                response_deserializer=globals()[f"{message}Response"].FromString,
            )
            setattr(self, method, call)
