"""Writes the SavedModels that the tests of serving load: make_models.py FOLDER

Each lies in FOLDER/<name>/1, as TensorFlow Serving has them.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

tf1 = tf.compat.v1
root = Path(sys.argv[1])


def path(name):
    return str(root / name / "1")


def half_plus(name, plus):
    """As TensorFlow Serving's saved_model_half_plus_two.py writes it: TF1, tf.Example in, all three methods."""
    with tf1.Graph().as_default(), tf1.Session() as session:
        a = tf1.Variable(0.5, name="a")
        b = tf1.Variable(plus, name="b")
        c = tf1.Variable(3.0, name="c")
        serialized = tf1.placeholder(tf.string, name="tf_example")
        # What tf.compat.v1.parse_example was: `tf.saved_model.load` refuses it, for it wants a vector of examples.
        _, _, _, (x, x2) = tf.raw_ops.ParseExample(
            serialized=serialized,
            names=[],
            sparse_keys=[],
            dense_keys=["x", "x2"],
            dense_defaults=[[1.0], [0.0]],
            sparse_types=[],
            dense_shapes=[[1], [1]],
        )
        x = tf.identity(x, name="x")
        x2 = tf.identity(x2, name="x2")
        y = tf.add(tf.multiply(a, x), b, name="y")
        y2 = tf.add(tf.multiply(a, x), c, name="y2")
        y3 = tf.add(tf.multiply(a, x2), c, name="y3")
        classes = tf.identity(tf.constant([[b"zero", b"one"]]), name="classes")
        scores = tf.concat([y, y2], 1, name="scores")

        def info(tensor):
            return tf1.saved_model.build_tensor_info(tensor)

        def signature(inputs, outputs, method):
            return tf1.saved_model.build_signature_def(
                {name: info(tensor) for name, tensor in inputs.items()},
                {name: info(tensor) for name, tensor in outputs.items()},
                f"tensorflow/serving/{method}",
            )

        session.run(tf1.global_variables_initializer())
        builder = tf1.saved_model.Builder(path(name))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {
                "serving_default": signature({"x": x}, {"y": y}, "predict"),
                "tensorflow/serving/regress": signature({"inputs": serialized}, {"outputs": y}, "regress"),
                "regress_x_to_y2": signature({"inputs": serialized}, {"outputs": y2}, "regress"),
                "regress_x2_to_y3": signature({"inputs": x2}, {"outputs": y3}, "regress"),
                "classify_x_to_y": signature({"inputs": serialized}, {"scores": y}, "classify"),
                "classify_labels": signature(
                    {"inputs": serialized},
                    {"scores": scores, "classes": tf.tile(classes, [tf.shape(scores)[0], 1])},
                    "classify",
                ),
            },
            strip_default_attrs=True,
        )
        builder.save()


def spec(shape, dtype, name):
    return tf.TensorSpec(shape, dtype, name)


DTYPES = [
    *("float32", "float64", "float16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("bool", "complex64", "complex128", "string"),
]


def identities():
    """A signature for each type, of any rank."""
    module = tf.Module()
    signatures = {}
    for name in DTYPES:

        @tf.function(input_signature=[spec(None, tf.as_dtype(name), "x")])
        def same(x):
            return {"y": tf.identity(x), "rank": tf.rank(x)}

        setattr(module, name, same)
        signatures[name] = same
    tf.saved_model.save(module, path("identities"), signatures=signatures)


class Many(tf.Module):
    """Several inputs and outputs, of which one is no batch."""

    @tf.function(input_signature=[spec([None, 3], tf.float32, "a"), spec([None], tf.int64, "b")])
    def rows(self, a, b):
        return {"sum": tf.reduce_sum(a, 1), "both": a + tf.cast(b, tf.float32)[:, None], "twice": 2 * b}

    @tf.function(input_signature=[spec([None, 3], tf.float32, "a")])
    def mean(self, a):
        return {"mean": tf.reduce_mean(a), "a": a}

    @tf.function(input_signature=[spec([None], tf.float32, "a")])
    def centred(self, a):
        return {"centred": a - tf.reduce_mean(a)}

    @tf.function(input_signature=[spec([2, None], tf.float32, "a"), spec([], tf.float32, "factor")])
    def scaled(self, a, factor):
        return {"scaled": a * factor}

    @tf.function(input_signature=[spec([None], tf.string, "text")])
    def shout(self, text):
        return {"loud": tf.strings.upper(text), "length": tf.strings.length(text)}

    @tf.function(input_signature=[spec([None], tf.float32, "a")])
    def positive(self, a):
        with tf.control_dependencies([tf.debugging.assert_greater_equal(a, 0.0, "a must not be negative")]):
            return {"root": tf.sqrt(a)}


def many():
    module = Many()
    names = ["rows", "mean", "centred", "scaled", "shout", "positive"]
    tf.saved_model.save(module, path("many"), signatures={name: getattr(module, name) for name in names})


class Remembers(tf.Module):
    """Keeps what it was given last: its memory lives as long as the model does."""

    def __init__(self):
        super().__init__()
        self.last = tf.Variable([""], shape=[None], dtype=tf.string)

    @tf.function(input_signature=[spec([None], tf.string, "text")])
    def serve(self, text):
        before = self.last.read_value()
        with tf.control_dependencies([before]):
            self.last.assign(text)
        return {"before": before}


def remembers():
    module = Remembers()
    tf.saved_model.save(module, path("remembers"), signatures={"serving_default": module.serve})


def vocabulary():
    """A table that is filled from a file among the assets."""
    words = root / "words.txt"
    words.write_text("ant\nbee\ncow\n")
    layer = tf.Module()
    initializer = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    layer.table = tf.lookup.StaticHashTable(initializer, -1)

    @tf.function(input_signature=[spec([None], tf.string, "word")])
    def number(word):
        return {"number": layer.table.lookup(word)}

    layer.number = number
    tf.saved_model.save(layer, path("vocabulary"), signatures={"serving_default": number})
    words.unlink()


def vocabulary_1():
    """The same in TF1, with its own way to name what is to run first."""
    words = root / "words.txt"
    words.write_text("ant\nbee\ncow\n")
    with tf1.Graph().as_default(), tf1.Session() as session:
        initializer = tf.lookup.TextFileInitializer(
            str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        table = tf.lookup.StaticHashTable(initializer, -1)
        word = tf1.placeholder(tf.string, [None], "word")
        number = table.lookup(word)
        session.run(tf1.tables_initializer())
        builder = tf1.saved_model.Builder(path("vocabulary_1"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": tf1.saved_model.predict_signature_def({"word": word}, {"number": number})},
            assets_collection=tf1.get_collection(tf1.GraphKeys.ASSET_FILEPATHS),
            main_op=tf1.tables_initializer(),
        )
        builder.save()
    words.unlink()


def digits():
    """A small Keras classifier, as a user's training saves it."""
    tf.keras.utils.set_random_seed(0)
    model = tf.keras.Sequential(
        [tf.keras.layers.Dense(16, activation="relu"), tf.keras.layers.Dense(10, activation="softmax")]
    )
    model(tf.zeros([1, 64]))
    if hasattr(model, "export"):
        archive = tf.keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", model.call, [spec([None, 64], tf.float32, "pixels")])
        archive.write_out(path("digits"))
    else:
        tf.saved_model.save(model, path("digits"))


class Weights(tf.Module):
    """Work that can be measured: 16 MB of weights, read once for each batch."""

    def __init__(self):
        super().__init__()
        self.weights = [tf.Variable(tf.random.stateless_normal([1024, 1024], [i, 0]) / 32) for i in range(4)]

    @tf.function(input_signature=[spec([None, 1024], tf.float32, "x")])
    def serve(self, x):
        for weights in self.weights:
            x = tf.nn.relu(x @ weights)
        return {"y": x}


def weights():
    module = Weights()
    tf.saved_model.save(module, path("weights"), signatures={"serving_default": module.serve})


def tensor_protos():
    """Arrays as other programs write them down, each beside the array itself."""
    folder = root / "tensor_protos"
    folder.mkdir()
    for name in DTYPES:
        arrays = {
            "many": tf.cast([[0, 1, 1], [0, 1, 0]], tf.as_dtype(name) if name != "string" else tf.int32),
            "one": tf.cast(1, tf.as_dtype(name) if name != "string" else tf.int32),
            "equal": tf.cast([1] * 5, tf.as_dtype(name) if name != "string" else tf.int32),
        }
        for kind, tensor in arrays.items():
            array = np.array((tf.strings.as_string(tensor) if name == "string" else tensor).numpy())
            # Of lists the values are written one by one; of arrays, their bytes.
            for form, values in (("list", array.tolist()), ("array", array)):
                message = tf.make_tensor_proto(values, tf.as_dtype(name), array.shape)
                (folder / f"{name}-{kind}-{form}.pb").write_bytes(message.SerializeToString())
            np.save(folder / f"{name}-{kind}.npy", array.astype(object) if name == "string" else array)


half_plus("half_plus_two", 2.0)
half_plus("half_plus_three", 3.0)
for make in (identities, many, remembers, vocabulary, vocabulary_1, digits, weights, tensor_protos):
    make()
