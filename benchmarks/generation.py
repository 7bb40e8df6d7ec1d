"""Text generation against llama.cpp: same weights, same prompts, interleaved in one run.

Each system runs in a process of its own and is told step by step what to do, so that both meet
the same machine at the same time. llama.cpp's weights are requantised to Q8_0 by its own
quantiser. ``bandwidth-bound`` is how fast the machine could read the weights of one token.

``cpu_tok_s`` is of processor time, of all threads: beside other work it says more than the clock.

``copy_tok_s`` is of answers that repeat their prompt (to copy, correct or list it), after their
first token; ours guess tokens ahead (``benchmarks/drafts.py``).

``load_warm_ms`` is from opening the bundle or file to a model that takes tokens, in a process
that has imported its library, with packed weights and files in the page cache. Our tokenizer is
loaded by the first text; ``load_tokenizer_ms`` is that time. llama.cpp's is in its load.
``first_token_ms`` is from the same beginning to the first token after a text of 32: load,
tokenizer, prefill and a step.
``load_cold_ms`` is the first load of a bundle: it checks every file's hash and packs the weights.

    python benchmarks/generation.py --bundle out/smollm2-135m-1.0.0 --gguf FILE.gguf

With ``--adapter A --adapter B --merged M`` (B another adapter of the bundle, M the bundle with A
in its weights) the rows are of adapters alone: decode speed apart and merged, in turns, and the
time to change between two.

Over 400 lines: the two systems, what they are asked, and the table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _adapters
import numpy as np
from _figures import machine, save
from drafts import prompts

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PREFILL = (32, 128, 512)
DECODE_PROMPT = 32
DECODE_TOKENS = 64
ANSWER_TOKENS = 96
WINDOW = 256
LOADS = 16
FIRST_TEXT = (
    "The quick brown fox jumps over the lazy dog and runs away from all the other animals of the "
    "forest until it is night and nobody can see where it has gone"
)
"""32 tokens of SmolLM2's."""
PLAIN = "SHOAL_BENCH_LLAMA_PLAIN"
"""Variable of the environment: llama.cpp without its kernels for weights of another layout."""


def resident() -> dict[str, float]:
    """Resident megabytes of this process, those that are no file's, and those that are its own."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines}
    return {
        "rss_mb": found["Rss:"],
        "rss_anon_mb": found["Anonymous:"],
        "private_dirty_mb": found["Private_Dirty:"],
    }


class Shoal:
    """The bundle, through the agent's own decoder."""

    def __init__(self, path: str, threads: int, cache: str) -> None:
        import ai_edge_litert  # noqa: F401 - not a part of the load
        import tokenizers  # noqa: F401

        from agent.generate.model import GenerativeModel
        from agent.runtime.model import Options
        from contracts.bundle import Bundle

        started = time.perf_counter()
        options = Options(threads=threads, cache=Path(cache))
        self.model = GenerativeModel(Bundle.open(Path(path)), options)
        self.load_s = time.perf_counter() - started
        ids = self.model.prompts.encode(FIRST_TEXT)
        self.tokenizer_s = time.perf_counter() - started - self.load_s
        self.start(ids)
        self.first_s = time.perf_counter() - started
        self.model.warm_up()

    def start(self, ids: list[int]) -> int:
        """A new text; the most likely token after it."""
        self.model.decoder.truncate(0)
        self.model.decoder.prefill(ids[:-1])
        return int(self.model.decoder.step(ids[-1]).argmax())

    def step(self, token: int) -> int:
        """The most likely token after one more."""
        return int(self.model.decoder.step(token).argmax())

    def follow(self, ids: list[int], count: int) -> Iterator[int]:
        """The greedy answer, with guesses."""
        from agent.generate.drafts import Steps

        decoder = self.model.decoder
        decoder.truncate(0)
        decoder.prefill(ids[:-1])
        # Whether guessing pays is judged by processor time, which other programs do not change.
        steps = Steps(decoder, ids, count, list, time.process_time, guessing=True)
        token = ids[-1]
        while True:
            token = int(steps.settled(token, steps.after(token), None).argmax())
            yield token

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits after each token of a text, one decode step each."""
        self.model.decoder.truncate(0)
        return np.stack([self.model.decoder.step(i).copy() for i in ids])


class LlamaCpp:
    """The same weights in llama.cpp."""

    def __init__(self, path: str, threads: int, cache: str) -> None:
        import llama_cpp
        from llama_cpp import llama_cpp as api

        del cache
        if os.environ.get(PLAIN):
            defaults = api.llama_model_default_params

            def plain() -> Any:
                parameters = defaults()
                parameters.use_extra_bufts = False
                return parameters

            api.llama_model_default_params = plain
        started = time.perf_counter()
        self.llama: Any = llama_cpp.Llama(
            path, n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False,
            logits_all=False,
        )  # fmt: skip
        self.load_s = time.perf_counter() - started
        self.tokenizer_s = 0.0  # it is a part of the load
        self._last = llama_cpp.llama_get_logits_ith
        self.start(self.llama.tokenize(FIRST_TEXT.encode(), add_bos=False))
        self.first_s = time.perf_counter() - started

    def _logits(self) -> np.ndarray:
        pointer = self._last(self.llama.ctx, -1)
        return np.ctypeslib.as_array(pointer, (self.llama.n_vocab(),))

    def start(self, ids: list[int]) -> int:
        """A new text; the most likely token after it."""
        self.llama.reset()
        self.llama.eval(ids)
        return int(self._logits().argmax())

    def step(self, token: int) -> int:
        """The most likely token after one more."""
        self.llama.eval([token])
        return int(self._logits().argmax())

    def follow(self, ids: list[int], count: int) -> Iterator[int]:
        """The greedy answer."""
        del count
        token = self.start(ids)
        while True:
            yield token
            token = self.step(token)

    def logits(self, ids: list[int]) -> np.ndarray:
        """Logits after each token of a text, one decode step each."""
        self.llama.reset()
        rows = []
        for token in ids:
            self.llama.eval([token])
            rows.append(self._logits().copy())
        return np.stack(rows)


def survives(python: str, path: str) -> bool:
    """Whether llama.cpp as it was built computes a prompt here.

    Its AMX kernels end with a segmentation fault on some virtual machines whose processor
    reports AMX. Then the comparison is with its AVX-512 kernels, and the output says so.
    """
    command = [python, __file__, "--worker", "llama", path, "1", ""]
    done = subprocess.run(
        command, input='{"do": "prefill", "ids": [1, 2, 3, 4]}\n', text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    return "seconds" in done.stdout


def requantise(source: str, target: str) -> None:
    """Writes a GGUF file as Q8_0, by llama.cpp."""
    import llama_cpp

    options = llama_cpp.llama_model_quantize_default_params()
    options.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0
    options.allow_requantize = True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), options):
        raise SystemExit(f"llama.cpp could not quantise {source}")


def answered(tokens: Iterator[int], command: dict[str, Any]) -> dict[str, Any]:
    """How long an answer takes after its first token, until it ends or has `count` more."""
    token, made = next(tokens), 0
    began, used = time.perf_counter(), time.process_time()
    while made < command["count"] and token not in command["ends"]:
        token = next(tokens)
        made += 1
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    return {"tokens": made, "seconds": seconds, "cpu": cpu}


def work(kind: str, path: str, threads: int, cache: str) -> None:
    """The worker: one JSON command a line in, one JSON answer a line out."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    sink = os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 1)
    os.dup2(sink, 2)
    system: Any = (Shoal if kind == "shoal" else LlamaCpp)(path, threads, cache)
    loaded = {
        "load_ms": system.load_s * 1e3,
        "tokenizer_ms": system.tokenizer_s * 1e3,
        "first_ms": system.first_s * 1e3,
    }
    out.write(json.dumps(loaded) + "\n")
    for line in sys.stdin:
        command = json.loads(line)
        ids = command.get("ids", [])
        answer: dict[str, Any] = {}
        if command["do"] == "prefill":
            began, used = time.perf_counter(), time.process_time()
            system.start(ids)
            answer = {
                "seconds": time.perf_counter() - began, "cpu": time.process_time() - used
            }  # fmt: skip
        elif command["do"] == "decode":
            token = system.start(ids)
            times = []
            used = time.process_time()
            for _ in range(command["count"]):
                began = time.perf_counter()
                token = system.step(token)
                times.append(time.perf_counter() - began)
            used = time.process_time() - used
            answer = {"seconds": sum(times), "times": times, "cpu": used}
        elif command["do"] == "answer":
            answer = answered(system.follow(ids, command["count"]), command)
        elif command["do"] == "memory":
            answer = dict(resident())
        elif command["do"] == "text":
            rows = system.logits(ids)
            scores = rows[:-1].astype(np.float64)
            high = scores.max(-1)
            total = np.log(np.exp(scores - high[:, None]).sum(-1)) + high
            loss = total - scores[np.arange(len(ids) - 1), ids[1:]]
            answer = {"loss": loss.tolist(), "best": rows.argmax(-1).tolist()}
        out.write(json.dumps(answer) + "\n")


class Worker:
    """A worker process."""

    def __init__(self, python: str, kind: str, path: str, threads: int, cache: str) -> None:
        command = [python, __file__, "--worker", kind, path, str(threads), cache]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        loaded = self._read()
        self.load_ms = float(loaded["load_ms"])
        self.tokenizer_ms = float(loaded["tokenizer_ms"])
        self.first_ms = float(loaded["first_ms"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("a worker ended; is its library installed (extra 'bench')?")
        return dict(json.loads(line))

    def ask(self, **command: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def read_rate(threads: int) -> float:
    """Bytes a second that this machine streams from memory."""
    from concurrent.futures import ThreadPoolExecutor

    from threadpoolctl import threadpool_limits

    parts = [np.ones(32 << 20, np.float32) for _ in range(threads)]
    best = 0.0
    with threadpool_limits(1), ThreadPoolExecutor(threads) as pool:
        for _ in range(8):
            began = time.perf_counter()
            list(pool.map(lambda part: part.dot(part), parts))
            best = max(best, sum(p.nbytes for p in parts) / (time.perf_counter() - began))
    return best


Add = Callable[[str, str, str, float, str, int], None]


def speed(
    workers: dict[str, Worker], ids: list[int], case: str, rounds: int, quick: bool, add: Add
) -> None:
    """Decode, prefill and time to first token; the systems take turns in every round."""
    figures: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, worker in workers.items():
            done = worker.ask(do="decode", ids=ids[:DECODE_PROMPT], count=DECODE_TOKENS)
            figures.setdefault((name, "decode_tok_s"), []).append(DECODE_TOKENS / done["seconds"])
            figures.setdefault((name, "decode_cpu_tok_s"), []).append(DECODE_TOKENS / done["cpu"])
            best = 1 / min(done["times"])
            figures.setdefault((name, "decode_best_tok_s"), []).append(best)
            for size in PREFILL[: 2 if quick else 3]:
                text = ids[: min(size, 500)]
                done = worker.ask(do="prefill", ids=text)
                for unit, key in (("tok_s", "seconds"), ("cpu_tok_s", "cpu")):
                    figure = f"prefill_{size}_{unit}"
                    figures.setdefault((name, figure), []).append(len(text) / done[key])
                if size == 32:
                    figures.setdefault((name, "ttft_ms"), []).append(done["seconds"] * 1e3)
    for (name, figure), values in figures.items():
        unit = "ms" if figure.endswith("_ms") else "tok/s"
        # Interference only slows: the median of rounds, beside each other, is what is compared.
        add(case, name, figure, statistics.median(values), unit, rounds)


def copying(workers: dict[str, Worker], bundle: Path, case: str, rounds: int, add: Add) -> None:
    """Answers that repeat their prompt: to copy, to correct, to list; in turns."""
    from agent.generate.prompts import Prompts
    from contracts.bundle import Bundle
    from contracts.requests import ChatMessage

    opened = Bundle.open(bundle)
    assert opened.manifest.generator is not None
    texts = Prompts(opened, opened.manifest.generator)
    asked = [prompt for task, prompt in prompts(6 * rounds) if task in ("copy", "correct", "list")]
    sums: dict[str, list[float]] = {name: [0.0, 0.0, 0.0] for name in workers}
    for prompt in asked:
        ids = texts.encode_chat([ChatMessage("user", prompt)])
        for name, worker in workers.items():
            done = worker.ask(do="answer", ids=ids, count=ANSWER_TOKENS, ends=texts.eos_ids)
            found = (done["tokens"], done["seconds"], done["cpu"])
            sums[name] = [a + b for a, b in zip(sums[name], found, strict=True)]
    for name, (tokens, seconds, cpu) in sums.items():
        add(case, name, "copy_tok_s", tokens / seconds, "tok/s", len(asked))
        add(case, name, "copy_cpu_tok_s", tokens / cpu, "tok/s", len(asked))


def fidelity(workers: dict[str, Worker], gguf: str, ids: list[int], count: int, add: Add) -> None:
    """Perplexity, and agreement with the float reference, token by token."""
    from model_builder.generate import reference
    from model_builder.generate.fidelity import negative_log_likelihoods
    from model_builder.generate.gguf_source import GgufFile

    weights = GgufFile(Path(gguf)).weights()
    best: list[int] = []
    losses: dict[str, list[float]] = {"float-reference": []}
    found: dict[str, list[int]] = {}
    for at in range(0, count, WINDOW):
        text = np.array(ids[at : at + WINDOW], np.int64)
        rows = reference.logits(weights, text)
        best += rows.argmax(-1).tolist()
        losses["float-reference"] += negative_log_likelihoods(rows, text).tolist()
        for name, worker in workers.items():
            answer = worker.ask(do="text", ids=text.tolist())
            losses.setdefault(name, []).extend(answer["loss"])
            found.setdefault(name, []).extend(answer["best"])
    for name, values in losses.items():
        add("smollm2-135m-t1", name, "perplexity", float(np.exp(np.mean(values))), "", len(best))
    for name, values in found.items():
        same = sum(a == b for a, b in zip(values, best, strict=True)) / len(best)
        add("smollm2-135m-t1", name, "agreement", same, "ratio", len(best))


def run(options: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows."""
    from tokenizers import Tokenizer

    from model_builder.generate.fidelity import shipped_text

    rows: list[dict[str, Any]] = []

    def add(case: str, system: str, figure: str, value: float, unit: str, runs: int) -> None:
        rows.append(
            {"case": case, "system": system, "figure": figure, "value": round(value, 4),
             "unit": unit, "runs": runs}
        )  # fmt: skip
        sys.stderr.write(f"{case:18} {system:16} {figure:20} {value:10.3f} {unit}\n")

    tokenizer = Tokenizer.from_file(str(options.bundle / "tokenizer.json"))
    ids = tokenizer.encode(shipped_text("perplexity"), add_special_tokens=False).ids
    if options.adapter:
        rounds = options.rounds or (3 if options.quick else 9)
        with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
            _adapters.run(
                options.bundle, options.adapter, options.merged, ids, Path(folder), rounds, add
            )
        return rows
    with tempfile.TemporaryDirectory(prefix="shoal-bench-") as folder:
        q8 = options.q8 or f"{folder}/q8_0.gguf"
        if not Path(q8).is_file():
            command = [options.llama_python, __file__, "--requantise", str(options.gguf), q8]
            subprocess.run(command, check=True, capture_output=True)
        if not survives(options.llama_python, q8):
            os.environ[PLAIN] = "1"
            sys.stderr.write("llama.cpp's AMX kernels crash here: measured without them\n")
        for threads in (1, 2):
            case = f"smollm2-135m-t{threads}"
            cache = f"{folder}/weights-{threads}"
            cold = Worker(sys.executable, "shoal", str(options.bundle), threads, cache)
            add(case, "shoal", "load_cold_ms", cold.load_ms, "ms", 1)
            cold.close()
            systems = {
                "shoal": (sys.executable, "shoal", str(options.bundle)),
                "llama.cpp": (options.llama_python, "llama", q8),
            }
            loads: dict[str, list[Worker]] = {name: [] for name in systems}
            for _ in range(LOADS):
                for name, (python, kind, path) in systems.items():
                    worker = Worker(python, kind, path, threads, cache)
                    worker.close()
                    loads[name].append(worker)
            for name, found in loads.items():
                middle = statistics.median(worker.load_ms for worker in found)
                add(case, name, "load_warm_ms", middle, "ms", LOADS)
                middle = statistics.median(worker.first_ms for worker in found)
                add(case, name, "first_token_ms", middle, "ms", LOADS)
            middle = statistics.median(worker.tokenizer_ms for worker in loads["shoal"])
            add(case, "shoal", "load_tokenizer_ms", middle, "ms", LOADS)
            workers = {
                name: Worker(python, kind, path, threads, cache)
                for name, (python, kind, path) in systems.items()
            }
            speed(
                workers,
                ids,
                case,
                options.rounds or (3 if options.quick else 9),
                options.quick,
                add,
            )
            copying(workers, options.bundle, case, 1 if options.quick else 4, add)
            for name, worker in workers.items():
                # A text that fills the 512 positions, so that the whole cache is there.
                worker.ask(do="prefill", ids=ids[:500])
                for figure, value in worker.ask(do="memory").items():
                    add(case, name, figure, value, "MB", 1)
            read = Path(cache).stat().st_size
            rate = read_rate(threads)
            add(case, "bandwidth-bound", "decode_tok_s", rate / read, "tok/s", 8)
            if threads == 1 and not options.no_fidelity:
                count = 512 if options.quick else 2048
                fidelity(workers, str(options.gguf), ids, count, add)
            for worker in workers.values():
                worker.close()
    return rows


def table(rows: list[dict[str, Any]]) -> None:
    """The figures of all systems side by side, with our ratio to llama.cpp."""
    cells = {(r["case"], r["figure"], r["system"]): r["value"] for r in rows}
    for case, figure in dict.fromkeys((r["case"], r["figure"]) for r in rows):
        ours, theirs = (cells.get((case, figure, s)) for s in ("shoal", "llama.cpp"))
        ratio = f"{ours / theirs:6.2f}x" if ours and theirs else ""
        shown = "  ".join(
            f"{s} {cells[case, figure, s]:.3f}"
            for s in ("shoal", "llama.cpp", "float-reference", "bandwidth-bound")
            if (case, figure, s) in cells
        )
        sys.stdout.write(f"{case:18} {figure:20} {ratio:8} {shown}\n")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Tokens a second as bars."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figures = ["decode_tok_s", "prefill_128_tok_s"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5))
    for axis, name in zip(axes, figures, strict=True):
        found = [r for r in rows if r["figure"] == name]
        labels = [f"{r['system'].replace('-', chr(10))}\n{r['case'][-2:]}" for r in found]
        axis.bar(labels, [r["value"] for r in found])
        axis.set_title(name)
        axis.tick_params(axis="x", labelsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main() -> None:
    """Runs the benchmark."""
    if sys.argv[1:2] == ["--worker"]:
        work(sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
        return
    if sys.argv[1:2] == ["--requantise"]:
        requantise(sys.argv[2], sys.argv[3])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, help="imported SmolLM2-135M")
    parser.add_argument("--gguf", type=Path, help="the GGUF file that it was imported from")
    parser.add_argument("--q8", help="its Q8_0, when it is there already")
    parser.add_argument("--llama-python", default=sys.executable, help="Python with llama-cpp")
    parser.add_argument("--no-fidelity", action="store_true")
    parser.add_argument("--adapter", type=Path, action="append", metavar="BUNDLE", default=[])
    parser.add_argument("--merged", type=Path, metavar="BUNDLE")
    parser.add_argument("--rounds", type=int, default=0, help="of speed; default: 9, quick: 3")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    if options.adapter and (len(options.adapter) != 2 or not options.merged):
        parser.error("--adapter is given twice, with --merged")
    if options.bundle is None or (options.gguf is None and not options.adapter):
        sys.stdout.write("needs --bundle and --gguf: see the first lines of the script\n")
        return
    facts = machine()
    rows = run(options)
    table(rows)
    save(options.json, "generation", rows, {**facts, "llama_without_amx": PLAIN in os.environ})
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
