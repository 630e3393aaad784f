"""The report in a real browser: it draws, says nothing on the console and asks the network for nothing."""

import shutil
import struct
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "unit"))
from run_records import make_evidence, make_gate, make_recipe, write_run

from sovtune.data_view import gate_page
from sovtune.report import write_report

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium binary on this machine")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--disable-dev-shm-usage", "--enable-logging=stderr", "--v=0",
)  # fmt: skip
DARK = "--blink-settings=preferredColorScheme=0"
WIDTH, HEIGHT = 620, 700
Colour = tuple[int, int, int]


def pixels(png: bytes, high: int) -> Counter[Colour]:
    """How often each colour stands in an 8-bit RGB or RGBA PNG (the format needs no library)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert (width, height, depth) == (WIDTH, high, 8)
    step = {2: 3, 6: 4}[kind]
    packed, at = b"", 8
    while at < len(png):
        (length,) = struct.unpack(">I", png[at : at + 4])
        if png[at + 4 : at + 8] == b"IDAT":
            packed += png[at + 8 : at + 8 + length]
        at += length + 12
    raw, row = zlib.decompress(packed), bytearray(width * step)
    found: Counter[Colour] = Counter()
    for line in range(height):
        begin = line * (width * step + 1)
        row = unfilter(raw[begin], raw[begin + 1 : begin + 1 + width * step], row, step)
        found.update(zip(row[0::step], row[1::step], row[2::step], strict=True))
    return found


def unfilter(kind: int, line: bytes, above: bytearray, step: int) -> bytearray:
    """One scan line of a PNG, by the five filters of its specification."""
    out = bytearray(line)
    for at in range(len(out)):
        left = out[at - step] if at >= step else 0
        up, corner = above[at], above[at - step] if at >= step else 0
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        elif kind == 4:
            near = left + up - corner
            guess = min((left, up, corner), key=lambda value: abs(near - value))
        else:
            guess = 0
        out[at] = (out[at] + guess) & 255
    return out


def browse(page: Path, *flags: str, height: int = HEIGHT) -> tuple[Counter[Colour], list[str]]:
    """Colours of a screenshot, and the lines a page left on the console."""
    picture = page.with_suffix(".png")
    profile = page.parent / f"profile-{page.stem}"
    shutil.rmtree(profile, ignore_errors=True)
    command = [
        str(CHROMIUM), *FLAGS, *flags, f"--user-data-dir={profile}", f"--window-size={WIDTH},{height}",
        f"--screenshot={picture}", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return pixels(picture.read_bytes(), height), console


def rgb(code: str) -> Colour:
    return (int(code[1:3], 16), int(code[3:5], 16), int(code[5:7], 16))


@pytest.fixture
def report(tmp_path: Path) -> Path:
    evidence = make_evidence()
    return write_report(write_run(tmp_path / "run", evidence), evidence.recipe)


@needs_browser
def test_the_report_draws_in_light_and_dark_without_console_errors(report: Path) -> None:
    light, console = browse(report)
    assert console == []
    assert len(light) > 50
    assert light[rgb("#0f766e")] > 2000, "the adapter's bars"
    assert light[rgb("#9aa5b5")] > 2000, "the base's bars"
    assert light[rgb("#f6f7f9")] > 10_000, "paper"
    dark, console = browse(report, DARK)
    assert console == []
    assert dark[rgb("#2dbdb0")] > 2000
    assert dark[rgb("#12161c")] > 10_000


@needs_browser
def test_what_the_gate_did_draws_in_light_and_dark(tmp_path: Path) -> None:
    page = tmp_path / "gate.html"
    page.write_text(gate_page(make_gate()), encoding="utf-8")
    for flags, kept, gone in (((), "#0f766e", "#a61e2c"), ((DARK,), "#2dbdb0", "#ff9aa4")):
        drawn, console = browse(page, *flags, height=1400)
        assert console == []
        assert drawn[rgb(kept)] > 20_000, "eight bars of rows"
        assert drawn[rgb(gone)] > 40, "the thin ends that stand for rows that went"


@needs_browser
def test_hostile_samples_run_nothing(tmp_path: Path) -> None:
    evidence = make_evidence()
    attack = "</div><script>console.error('ran')</script><img src=x onerror=console.error('ran')>"
    sample = replace(evidence.evaluation.samples[0], base=attack, adapter=attack)
    evaluation = replace(evidence.evaluation, samples=(sample,))
    recipe = make_recipe(card={"licence": "apache-2.0", "title": attack, "summary": attack})
    run_dir = write_run(tmp_path / "run", make_evidence(recipe, evaluation=evaluation))
    _, console = browse(write_report(run_dir, recipe))
    assert console == []


@needs_browser
def test_the_console_check_can_fail_and_the_policy_blocks_loads(report: Path) -> None:
    text = report.read_text(encoding="utf-8")
    broken = report.with_name("broken.html")
    broken.write_text(
        text.replace("</main>", "<script>console.error('ran')</script></main>"), encoding="utf-8"
    )
    _, console = browse(broken)
    assert any("Content Security Policy" in line for line in console)
    assert not any('"ran"' in line for line in console)
