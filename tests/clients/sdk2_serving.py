"""Endpoints and batch transforms by version 2 of the SageMaker Python SDK in local mode, as its users write them.

usage: sdk2_serving.py CASE IMAGE PORT

CASE is one of CASES. It runs in a folder with `model/model.tar.gz`, and with what the case names besides. Endpoints
listen at PORT of this machine. What they answered comes into `answers.json`.

Local mode returns when the endpoint answers, also with wait=False; without, the SDK sleeps for 30 s more.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from sagemaker.deserializers import CSVDeserializer, JSONLinesDeserializer, NumpyDeserializer
from sagemaker.local import LocalSession
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.serializers import (
    CSVSerializer,
    IdentitySerializer,
    JSONLinesSerializer,
    JSONSerializer,
    NumpySerializer,
)
from sagemaker.tensorflow import TensorFlow, TensorFlowModel, TensorFlowPredictor

ROLE = "arn:aws:iam::000000000000:role/any"
# Nothing is put there, as there is no code; without it the SDK asks S3 for the default bucket.
NO_BUCKET = "s3://any"
ROW = [1.0, 2.0, 5.0]
LINES = "\n".join([json.dumps({"x": ROW})] * 3)


def here(path: str) -> str:
    return Path(path).absolute().as_uri()


def models(image: str, session: LocalSession) -> dict[str, Any]:
    """One endpoint with several models and no code, and every way to ask it."""
    model = TensorFlowModel(
        model_data=here("model/model.tar.gz"),
        role=ROLE,
        image_uri=image,
        # The last for which the SDK lets its users ask for Elastic Inference.
        framework_version="2.0",
        code_location=NO_BUCKET,
        env={"SAGEMAKER_TFS_DEFAULT_MODEL_NAME": "half_plus_three"},
        sagemaker_session=session,
    )
    predictor = model.deploy(1, "local", accelerator_type="local_sagemaker_notebook", wait=False)

    def having(**options: Any) -> TensorFlowPredictor:
        return TensorFlowPredictor(predictor.endpoint_name, session, **options)

    csv = having(serializer=CSVSerializer())
    lines = having(serializer=JSONLinesSerializer())
    two = {"CustomAttributes": "tfs-model-name=half_plus_two"}
    examples = [{"x": 1.0}, {"x": 2.0}]
    answers = {
        "instances": predictor.predict({"instances": ROW}),
        "many instances": predictor.predict({"instances": [ROW] * 3}),
        "inputs": predictor.predict({"inputs": ROW}),
        "rows": predictor.predict([ROW] * 2),
        "list": predictor.predict(ROW),
        "named": predictor.predict({"x": ROW}),
        "value": predictor.predict(1.0),
        "array": predictor.predict(np.array([ROW] * 2)),
        "regress": predictor.regress({"signature_name": "tensorflow/serving/regress", "examples": examples}),
        "classify": predictor.classify({"signature_name": "classify_labels", "examples": examples}),
        "csv text": csv.predict("1.0,2.0,5.0\n1.0,2.0,5.0\n1.0,2.0,5.0"),
        "csv list": csv.predict(ROW),
        "csv rows": csv.predict([ROW] * 2),
        "csv array": csv.predict(np.array([ROW] * 2)),
        "lines text": having(serializer=IdentitySerializer("application/jsonlines")).predict(LINES),
        "lines": lines.predict([{"x": ROW}] * 3),
        "npy": having(serializer=NumpySerializer(), deserializer=NumpyDeserializer()).predict([ROW] * 2).tolist(),
        "csv answer": having(deserializer=CSVDeserializer()).predict([ROW] * 2),
        "lines answer": having(deserializer=JSONLinesDeserializer()).predict([ROW] * 2),
        "bytes": Predictor(predictor.endpoint_name, session, JSONSerializer()).predict([ROW]).decode(),
        "model": having(model_name="half_plus_two").predict({"instances": ROW}),
        "version": having(model_name="half_plus_two", model_version="1").predict({"instances": ROW}),
        "version that is not there": having(model_version="7").predict({"instances": ROW}),
        "attributes": predictor.predict({"instances": ROW}, two),
        "regress of a model": having(model_name="half_plus_two").regress(
            {"signature_name": "tensorflow/serving/regress", "examples": examples}
        ),
        "wrong": predictor.predict({"instances": ["a"]}),
    }
    predictor.delete_endpoint()
    return answers


def handlers(image: str, session: LocalSession) -> dict[str, Any]:
    """An endpoint, and a batch transform, with `code/inference.py`, which the SDK packs into the archive in S3."""
    model = TensorFlowModel(
        entry_point="inference.py",
        source_dir="code",
        dependencies=["requirements.txt", "wheels"],
        model_data=here("model/model.tar.gz"),
        role=ROLE,
        image_uri=image,
        env={"PIP_NO_INDEX": "1"},
        sagemaker_session=session,
    )
    predictor = model.deploy(1, "local", wait=False)

    def having(serializer: Any) -> Predictor:
        return Predictor(predictor.endpoint_name, session, serializer)

    answers = {
        "json": predictor.predict({"instances": ROW}),
        "csv": json.loads(having(CSVSerializer()).predict("1.0,2.0,5.0")),
        "other": json.loads(having(IdentitySerializer("image/png")).predict(b"x")),
        "wrong": predictor.predict({"instances": ["a"]}),
        "model": predictor.predict({"instances": ROW}, {"CustomAttributes": "tfs-model-name=half_plus_two"}),
    }
    predictor.delete_endpoint()
    transformer = model.transformer(1, "local", output_path="s3://bucket/results")
    transformer.transform("s3://bucket/examples", content_type="text/csv", split_type="Line", wait=False)
    return answers


def program(image: str, session: LocalSession) -> dict[str, Any]:
    """An endpoint with a script of another name, which the container finds by SAGEMAKER_PROGRAM."""
    model = Model(
        image,
        here("model/model.tar.gz"),
        ROLE,
        predictor_cls=Predictor,
        entry_point="serving.py",
        source_dir=str(Path("code").absolute()),
        code_location=NO_BUCKET,
        sagemaker_session=session,
    )
    predictor = model.deploy(1, "local", serializer=JSONSerializer(), wait=False)
    answers = json.loads(predictor.predict(ROW, {"CustomAttributes": "tfs-method=predict,mine=1"}))
    predictor.delete_endpoint()
    return dict(answers)


# Of each batch transform: how the transformer is made, and what is asked of it.
TRANSFORMS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "documented": ({}, {"data_type": "S3Prefix", "content_type": "text/csv", "split_type": "Line"}),
    "many": (
        {"strategy": "MultiRecord", "assemble_with": "Line", "accept": "text/csv", "max_payload": 1},
        {"content_type": "text/csv", "split_type": "Line"},
    ),
    "single": (
        {"strategy": "SingleRecord", "assemble_with": "Line"},
        {"content_type": "application/jsonlines", "split_type": "Line"},
    ),
    "whole": ({"accept": "application/json"}, {"content_type": "application/json"}),
}


def transforms(image: str, session: LocalSession) -> dict[str, Any]:
    """Batch transforms of the folders `in/NAME` into `out/NAME`."""
    model = TensorFlowModel(
        here("model/model.tar.gz"), ROLE, image_uri=image, code_location=NO_BUCKET, sagemaker_session=session
    )
    for name, (options, asked) in TRANSFORMS.items():
        Path("out", name).mkdir(parents=True)
        transformer = model.transformer(1, "local", output_path=here(f"out/{name}"), **options)
        transformer.transform(here(f"in/{name}"), wait=False, **asked)
    return {}


def trained(image: str, session: LocalSession) -> dict[str, Any]:
    """Training, an endpoint for what came out, and a batch transform by it, all from one estimator."""
    estimator = TensorFlow(
        entry_point="train.py",
        source_dir="code",
        image_uri=image,
        framework_version="2.2",
        role=ROLE,
        instance_count=1,
        instance_type="local",
        output_path=here("trained"),
        hyperparameters={"steps": 200},
        sagemaker_session=session,
    )
    estimator.fit({"train": here("train")})
    predictor = estimator.deploy(initial_instance_count=1, instance_type="local", wait=False)
    answers = {"instances": predictor.predict({"instances": ROW})}
    predictor.delete_endpoint()
    Path("out").mkdir()
    transformer = estimator.transformer(1, "local", output_path=here("out"), accept="text/csv", assemble_with="Line")
    transformer.transform(here("in"), content_type="text/csv", split_type="Line", wait=False)
    return answers


CASES = {each.__name__: each for each in (models, handlers, program, transforms, trained)}


def main() -> None:
    case, image, port = sys.argv[1:]
    session = LocalSession(default_bucket="bucket")
    session.config = {"local": {"local_code": case != "handlers", "serving_port": int(port)}}
    answers = CASES[case](image, session)
    Path("answers.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
