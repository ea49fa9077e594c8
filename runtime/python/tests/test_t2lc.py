"""Tests of the package, with the bundle that T2LC_BUNDLE names. They need gguf, numpy and
safetensors, which test.sh installs."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import gguf
import numpy as np
import safetensors.numpy

import t2lc

BUNDLE = Path(os.environ.get("T2LC_BUNDLE") or sys.exit("set T2LC_BUNDLE to a bundle"))
TEXT = "summarize legal text"


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Case(unittest.TestCase):
    compiler: t2lc.Compiler

    @classmethod
    def setUpClass(cls) -> None:
        cls.compiler = t2lc.Compiler(BUNDLE)

    @classmethod
    def tearDownClass(cls) -> None:
        cls.compiler.close()


class OneCall(Case):
    def test_bytes_are_those_of_the_compiler(self) -> None:
        adapter = t2lc.compile(TEXT, bundle=BUNDLE)
        self.assertEqual(adapter[:4], b"GGUF")
        self.assertEqual(adapter, self.compiler.compile(TEXT).bytes)

    def test_options_reach_the_library(self) -> None:
        adapter = t2lc.compile(TEXT, quantization="q4_0", scale=0.5)
        self.assertEqual(adapter, self.compiler.compile(TEXT, quantization="q4_0", scale=0.5).bytes)
        self.assertNotEqual(adapter, t2lc.compile(TEXT, quantization="q4_0"))

    def test_peft_is_two_files(self) -> None:
        files = t2lc.compile(TEXT, format="peft")
        self.assertEqual(list(files), ["adapter_model.safetensors", "adapter_config.json"])

    def test_no_bundle(self) -> None:
        with mock.patch.dict(os.environ):
            del os.environ["T2LC_BUNDLE"]
            with self.assertRaisesRegex(ValueError, "set T2LC_BUNDLE"):
                t2lc.compile(TEXT)


class Opening(Case):
    def test_what_is_known_of_the_bundle(self) -> None:
        manifest = (BUNDLE / "manifest.json").read_bytes()
        self.assertEqual(self.compiler.manifest, json.loads(manifest))
        self.assertEqual(self.compiler.bundle_digest, digest(manifest))
        self.assertTrue(self.compiler.backend)

    def test_from_memory(self) -> None:
        files = {path.name: path.read_bytes() for path in BUNDLE.iterdir()}
        with t2lc.Compiler(files) as compiler:
            del files
            self.assertEqual(compiler.compile(TEXT).content, self.compiler.compile(TEXT).content)
            with self.assertRaisesRegex(TypeError, "in memory"):
                pickle.dumps(compiler)

    def test_missing_bundle(self) -> None:
        with self.assertRaises(t2lc.T2lcError) as caught:
            t2lc.Compiler(BUNDLE / "none")
        self.assertEqual(caught.exception.status, t2lc.Status.BUNDLE)
        self.assertEqual(caught.exception.code, "bundle.missing")
        self.assertIn("none", caught.exception.message)

    def test_changed_bundle(self) -> None:
        files = {path.name: path.read_bytes() for path in BUNDLE.iterdir()}
        changed = bytearray(files["hypernet.onnx"])
        changed[-1] ^= 1
        with self.assertRaises(t2lc.T2lcError) as caught:
            t2lc.Compiler({**files, "hypernet.onnx": bytes(changed)})
        self.assertEqual(caught.exception.code, "bundle.digest")

    def test_closed(self) -> None:
        with t2lc.Compiler(BUNDLE) as compiler:
            adapter = compiler.compile(TEXT)
        compiler.close()
        with self.assertRaises(t2lc.T2lcError) as caught:
            compiler.compile(TEXT)
        self.assertEqual(caught.exception.status, t2lc.Status.ARGUMENT)
        # An adapter outlives its compiler.
        self.assertEqual(digest(adapter.bytes), adapter.content)

    def test_unknown_names(self) -> None:
        for arguments in ({"format": "zip"}, {"quantization": "q9"}, {"quantization": ["f32"]}):
            with self.subTest(arguments), self.assertRaisesRegex(ValueError, "unknown"):
                self.compiler.compile(TEXT, **arguments)
        with self.assertRaisesRegex(ValueError, "unknown backend"):
            t2lc.Compiler(BUNDLE, backend="abacus")


class Gguf(Case):
    def test_digests(self) -> None:
        adapter = self.compiler.compile(TEXT)
        self.assertEqual(adapter.content, digest(adapter.bytes))
        self.assertRegex(adapter.recipe, "^sha256:[0-9a-f]{64}$")
        again = self.compiler.compile(TEXT)
        self.assertEqual((again.recipe, again.content), (adapter.recipe, adapter.content))

    def test_gguf_reads_it_in_two_quantizations(self) -> None:
        kind = gguf.GGMLQuantizationType
        sizes = []
        for quantization, expected in (("q8_0", kind.Q8_0), ("f16", kind.F16)):
            with self.subTest(quantization), tempfile.TemporaryDirectory() as directory:
                path = Path(directory, "adapter.gguf")
                adapter = self.compiler.compile(TEXT, quantization=quantization)
                adapter.write(path)
                self.assertEqual(path.read_bytes(), adapter.bytes)
                reader = gguf.GGUFReader(path)
                self.assertIn(expected, {tensor.tensor_type for tensor in reader.tensors})
                self.assertTrue(
                    all(t.name.endswith((".lora_a", ".lora_b")) for t in reader.tensors)
                )
                sizes.append(len(adapter.bytes))
                # It maps the file, which Windows does not delete then.
                del reader
        self.assertLess(*sizes)

    def test_an_existing_file_stays(self) -> None:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "ü.gguf")
            path.write_bytes(b"precious")
            adapter = self.compiler.compile(TEXT)
            with self.assertRaises(t2lc.T2lcError) as caught:
                adapter.write(path)
            self.assertEqual(caught.exception.status, t2lc.Status.OUTPUT)
            self.assertEqual(caught.exception.code, "output.exists")
            self.assertEqual(path.read_bytes(), b"precious")
            adapter.write(path, overwrite=True)
            self.assertEqual(path.read_bytes(), adapter.bytes)

    def test_similarity(self) -> None:
        adapter = self.compiler.compile(TEXT)
        self.assertGreater(adapter.tokens, 2)
        self.assertFalse(adapter.truncated)
        self.assertTrue(self.compiler.compile("summarize " * 400).truncated)
        nearest = self.compiler.nearest(TEXT, len(adapter.similarity.tasks))
        self.assertEqual(nearest, adapter.similarity)
        cosines = [task.cosine for task in nearest.tasks]
        self.assertEqual(cosines, sorted(cosines, reverse=True))
        self.assertEqual(len(self.compiler.nearest(TEXT, 1).tasks), 1)

    def test_peft_methods_refuse(self) -> None:
        with self.assertRaisesRegex(ValueError, 'format="peft"'):
            self.compiler.compile(TEXT).peft()


class Peft(Case):
    def test_matrices_are_what_safetensors_reads(self) -> None:
        for quantization in (None, "f32", "f16"):
            with self.subTest(quantization):
                adapter = self.compiler.compile(TEXT, format="peft", quantization=quantization)
                ours = adapter.peft()
                theirs = safetensors.numpy.load(adapter.files["adapter_model.safetensors"])
                self.assertEqual(ours.keys(), theirs.keys())
                for name, matrix in ours.items():
                    self.assertEqual(matrix.dtype, np.float32)
                    np.testing.assert_array_equal(matrix, theirs[name].astype(np.float32))

    def test_bf16_is_f32_rounded(self) -> None:
        exact = self.compiler.compile(TEXT, format="peft").peft()
        rounded = self.compiler.compile(TEXT, format="peft", quantization="bf16").peft()
        self.assertEqual(exact.keys(), rounded.keys())
        for name, matrix in rounded.items():
            np.testing.assert_allclose(matrix, exact[name], rtol=2**-8, atol=1e-38)

    def test_config_fits_the_matrices(self) -> None:
        adapter = self.compiler.compile(TEXT, format="peft")
        config = adapter.peft_config()
        self.assertEqual(config["peft_type"], "LORA")
        for name, matrix in adapter.peft().items():
            axis = 0 if name.endswith("lora_A.weight") else 1
            self.assertEqual(matrix.shape[axis], config["r"], name)

    def test_digest_and_directory(self) -> None:
        adapter = self.compiler.compile(TEXT, format="peft")
        self.assertEqual(adapter.content, digest(b"".join(adapter.files.values())))
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "adapter")
            adapter.write(path)
            found = {file.name: file.read_bytes() for file in path.iterdir()}
        self.assertEqual(found, adapter.files)

    def test_bytes_and_quantization_are_refused(self) -> None:
        with self.assertRaisesRegex(ValueError, "two files"):
            _ = self.compiler.compile(TEXT, format="peft").bytes
        with self.assertRaises(t2lc.T2lcError) as caught:
            self.compiler.compile(TEXT, format="peft", quantization="q8_0")
        self.assertEqual(caught.exception.code, "write.quantization")


class Descriptions(Case):
    def test_unicode(self) -> None:
        # Composed and decomposed are one description.
        composed = self.compiler.compile("R\u00e9sume le texte \u65e5\u672c\u8a9e \U0001f642")
        decomposed = self.compiler.compile("Re\u0301sume le texte \u65e5\u672c\u8a9e \U0001f642")
        self.assertEqual(composed.content, decomposed.content)

    def test_refused(self) -> None:
        for description, code in (
            ("", "describe.empty"),
            (" \n", "describe.empty"),
            ("a\0b", "describe.invalid"),
            ("a" * 5000, "describe.too_long"),
        ):
            with self.subTest(code), self.assertRaises(t2lc.T2lcError) as caught:
                self.compiler.compile(description)
            self.assertEqual(caught.exception.status, t2lc.Status.DESCRIPTION)
            self.assertEqual(caught.exception.code, code)
        with self.assertRaises(UnicodeEncodeError):
            self.compiler.compile("\ud800")

    def test_scale_is_a_number(self) -> None:
        with self.assertRaises(t2lc.T2lcError) as caught:
            self.compiler.compile(TEXT, scale=float("nan"))
        self.assertEqual(caught.exception.code, "options.scale")

    def test_errors_can_be_pickled(self) -> None:
        with self.assertRaises(t2lc.T2lcError) as caught:
            self.compiler.compile("")
        error = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual(error.code, "describe.empty")
        self.assertEqual(str(error), str(caught.exception))


class Progress(Case):
    def test_stages_in_order(self) -> None:
        calls: list[tuple[str, int, int]] = []
        adapter = self.compiler.compile(TEXT, progress=lambda *call: calls.append(call))
        stages = list(dict.fromkeys(stage for stage, _, _ in calls))
        self.assertEqual(stages, ["encode", "generate", "quantize", "write"])
        self.assertTrue(all(done <= total for _, done, total in calls))
        self.assertEqual(adapter.content, self.compiler.compile(TEXT).content)

    def test_cancel_in_every_stage(self) -> None:
        for stage in ("encode", "generate", "quantize"):
            with self.subTest(stage), self.assertRaises(t2lc.T2lcError) as caught:
                self.compiler.compile(TEXT, progress=lambda now, *_, last=stage: now != last)
            self.assertEqual(caught.exception.status, t2lc.Status.CANCELLED)
        self.assertEqual(self.compiler.compile(TEXT).bytes[:4], b"GGUF")

    def test_exceptions_come_out(self) -> None:
        for exception in (ZeroDivisionError("mine"), KeyboardInterrupt()):

            def fail(*_: object, exception: BaseException = exception) -> None:
                raise exception

            with self.subTest(exception), self.assertRaises(type(exception)) as caught:
                self.compiler.compile(TEXT, progress=fail)
            self.assertIs(caught.exception, exception)

    def test_closing_in_a_callback_is_refused(self) -> None:
        with t2lc.Compiler(BUNDLE) as compiler:
            with self.assertRaisesRegex(RuntimeError, "cannot close"):
                compiler.compile(TEXT, progress=lambda *_: compiler.close())
            self.assertEqual(compiler.compile(TEXT).bytes[:4], b"GGUF")


class Threads(Case):
    def test_python_runs_while_another_thread_compiles(self) -> None:
        spans = []

        def work() -> None:
            for _ in range(3):
                started = time.perf_counter()
                self.compiler.compile(TEXT)
                spans.append((started, time.perf_counter()))

        thread = threading.Thread(target=work)
        thread.start()
        moments = []
        while thread.is_alive():
            sum(range(1000))
            moments.append(time.perf_counter())
        thread.join()
        # With the lock held, nothing could have happened in the middle of a compile.
        for started, ended in spans:
            quarter = (ended - started) / 4
            inside = [m for m in moments if started + quarter < m < ended - quarter]
            self.assertGreater(len(inside), 3)

    def test_one_compiler_in_many_threads(self) -> None:
        texts = [f"answer question number {number}" for number in range(8)]
        alone = [self.compiler.compile(text).content for text in texts]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda text: self.compiler.compile(text).content, texts))
        self.assertEqual(together, alone)

    def test_closing_waits_for_other_threads(self) -> None:
        compiler = t2lc.Compiler(BUNDLE)
        inside = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(compiler.compile, TEXT, progress=lambda *_: inside.set())
            self.assertTrue(inside.wait(60))
            compiler.close()
            self.assertEqual(future.result().content, self.compiler.compile(TEXT).content)


class Shipping(Case):
    def test_pickle_opens_the_bundle_again(self) -> None:
        for send in (lambda value: pickle.loads(pickle.dumps(value)), copy.copy):
            with send(self.compiler) as received:
                self.assertEqual(received.bundle_digest, self.compiler.bundle_digest)
                self.assertEqual(
                    received.compile(TEXT).content, self.compiler.compile(TEXT).content
                )

    def test_pickle_into_another_process(self) -> None:
        program = (
            "import pickle, sys; compiler = pickle.load(sys.stdin.buffer);"
            f"print(compiler.compile({TEXT!r}).content)"
        )
        with tempfile.TemporaryDirectory() as elsewhere:
            there = subprocess.run(
                [sys.executable, "-c", program],
                input=pickle.dumps(self.compiler),
                stdout=subprocess.PIPE,
                cwd=elsewhere,
                check=True,
            )
        self.assertEqual(there.stdout.decode().strip(), self.compiler.compile(TEXT).content)

    def test_another_bundle_is_refused(self) -> None:
        reopen, arguments = self.compiler.__reduce__()
        with self.assertRaisesRegex(ValueError, "holds the bundle"):
            reopen(*arguments[:-1], "sha256:" + 64 * "0")

    def test_adapters_are_not_pickled(self) -> None:
        with self.assertRaisesRegex(TypeError, "send `bytes`"):
            pickle.dumps(self.compiler.compile(TEXT))


if __name__ == "__main__":
    unittest.main()
