"""SageMaker's protobuf records, which its own algorithms read too: the messages of its record.proto.

https://github.com/aws/sagemaker-python-sdk/blob/6a175728f4e7abace32abcea731042229b74a148/src/sagemaker/amazon/record.proto
"""

from __future__ import annotations

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_Field = descriptor_pb2.FieldDescriptorProto
_TENSORS = {
    "Float32Tensor": _Field.TYPE_FLOAT,
    "Float64Tensor": _Field.TYPE_DOUBLE,
    "Int32Tensor": _Field.TYPE_INT32,
}
# One of these is in a Value: name, number and message.
_VALUES = (
    ("float32_tensor", 2, "Float32Tensor"),
    ("float64_tensor", 3, "Float64Tensor"),
    ("int32_tensor", 7, "Int32Tensor"),
    ("bytes", 9, "Bytes"),
)


def _file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="record.proto", package="aialgs.data", syntax="proto2")
    for name, kind in _TENSORS.items():
        tensor = file.message_type.add(name=name)
        for number, (field, of) in enumerate(
            (("values", kind), ("keys", _Field.TYPE_UINT64), ("shape", _Field.TYPE_UINT64)), start=1
        ):
            added = tensor.field.add(name=field, number=number, type=of, label=_Field.LABEL_REPEATED)
            added.options.packed = True
    data = file.message_type.add(name="Bytes")
    data.field.add(name="value", number=1, type=_Field.TYPE_BYTES, label=_Field.LABEL_REPEATED)
    data.field.add(name="content_type", number=2, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    value = file.message_type.add(name="Value")
    value.oneof_decl.add(name="value")
    for name, number, message in _VALUES:
        _add_message(value, name, number, message, _Field.LABEL_OPTIONAL).oneof_index = 0
    record = file.message_type.add(name="Record")
    for number, name in enumerate(("features", "label"), start=1):
        # map<string, Value>
        entry = record.nested_type.add(name=f"{name.capitalize()}Entry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
        _add_message(entry, "value", 2, "Value", _Field.LABEL_OPTIONAL)
        _add_message(record, name, number, f"Record.{entry.name}", _Field.LABEL_REPEATED)
    for number, name in enumerate(("uid", "metadata", "configuration"), start=3):
        record.field.add(name=name, number=number, type=_Field.TYPE_STRING, label=_Field.LABEL_OPTIONAL)
    return file


def _add_message(
    to: descriptor_pb2.DescriptorProto, name: str, number: int, message: str, label: int
) -> descriptor_pb2.FieldDescriptorProto:
    kind = f".aialgs.data.{message}"
    return to.field.add(name=name, number=number, type=_Field.TYPE_MESSAGE, type_name=kind, label=label)


FILE = _file()
# As tf.io.decode_proto takes them.
DESCRIPTORS = descriptor_pb2.FileDescriptorSet(file=[FILE]).SerializeToString()
_pool = descriptor_pool.DescriptorPool()
_pool.Add(FILE)
Record = message_factory.GetMessageClass(_pool.FindMessageTypeByName("aialgs.data.Record"))
