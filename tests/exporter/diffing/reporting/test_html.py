"""The HTML report: complete, valid, harmless whatever names hold, readable, and small."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests.exporter.diffing import synthetic

from hsm_export.diffing import reporting
from hsm_export.diffing.reporting.html import html
from hsm_export.diffing.results import DiffResult
from hsm_export.errors import BadInputError

VOID = {"meta", "link", "br"}
RESULTS = {"passing": synthetic.passing, "failing": synthetic.failing, "hostile": synthetic.hostile}
STYLE = Path(reporting.__file__).parent / "templates" / "style.css"


class Document(HTMLParser):
    """Elements with their attributes, and the text; asserts that elements nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        """Return all values of an attribute."""
        return [value for _, attributes in self.elements if (value := attributes.get(attribute)) is not None]

    def count(self, tag: str) -> int:
        """Return how many elements of a kind there are."""
        return sum(name == tag for name, _ in self.elements)


@pytest.mark.parametrize("name", RESULTS)
def test_structure(name: str) -> None:
    """Landmarks, headings without a gap, captions, references that lead somewhere, ids that are there once."""
    document = Document(html(RESULTS[name]()))
    assert [document.count(tag) for tag in ("html", "header", "main", "footer", "nav", "h1")] == [1] * 6
    ids = Counter(document.values("id"))
    assert set(ids.values()) == {1}
    assert set(document.values("aria-labelledby")) <= set(ids)
    assert {link[1:] for link in document.values("href") if link.startswith("#")} <= set(ids)
    assert document.count("table") == document.count("caption")
    assert all(attributes.get("scope") for tag, attributes in document.elements if tag == "th")
    levels = [int(tag[1]) for tag, _ in document.elements if tag in ("h1", "h2", "h3")]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    # What scrolls can be reached and has a name; what is drawn is described.
    scrolling = [attributes for _, attributes in document.elements if attributes.get("class") == "scroll"]
    assert all(item["tabindex"] == "0" and item["role"] == "region" for item in scrolling)
    drawn = [attributes for tag, attributes in document.elements if tag == "svg"]
    assert all("aria-hidden" in item or (item["role"] == "img" and item["aria-label"]) for item in drawn)


@pytest.mark.parametrize("name", RESULTS)
def test_needs_nothing(name: str) -> None:
    """No script, nothing fetched, no attribute that runs anything."""
    text = html(RESULTS[name]())
    document = Document(text)
    assert document.count("script") == 0
    assert not [key for _, attributes in document.elements for key in attributes if key.startswith("on")]
    assert document.values("src") == [] and "url(" not in text and "@import" not in text
    assert all(link.startswith("#") or link == "data:," for link in document.values("href"))


def test_hostile_text_stays_text() -> None:
    text = html(synthetic.hostile())
    assert "<script>" not in text and "49" not in re.findall(r"\{\{7\*7\}\}|>49<", text)
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\ud800]", text)
    visible = synthetic.HOSTILE.replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    assert "".join(Document(text).text).count(visible) > 30
    text.encode()


def test_verdict_comes_first() -> None:
    text = html(synthetic.failing())
    sentence = "ort-fused departs from torch64: /layers.7/ShiftMix_44 (ShiftMix) is the first node at fault."
    command = "hsm-export diff hsm-lm.diff/ort-fused-44/node.onnx"
    assert text.index("FAILED</p>") < text.index(sentence) < text.index(f"<code>{command}") < text.index("<nav")


def test_every_section_is_there() -> None:
    document = Document(html(synthetic.failing()))
    sections = [
        "runtimes", "culprits", "depth", "heat", "ulps", "outputs", "layers", "bisections", "meaning", "regressions",
        "thresholds", "environment",
    ]  # fmt: skip
    assert [name for name in document.values("id") if name in sections] == sections
    assert [link[1:] for link in document.values("href") if link.startswith("#")] == ["content", *sections]


def test_every_field_is_shown() -> None:
    """What the result holds is on the page."""
    result = synthetic.failing()
    text = " ".join(" ".join(Document(html(result)).text).split())
    for part in (
        "shifts=[1, 2, 4, 8]", "layers.7.weight", "2×17×128, float16", "[1, 4, 17]", "4.015",
        "hsm-lm.diff/ort-fused-44", "amplifies relative errors 1.25 times",
        "3 later nodes beyond", "at token 17 of 64: 97 instead of 101", "+0.1594%",
        "95.83%", "the first 20 of 25", "4 of 680", "repeated runs on the same inputs differ by 2.40e-07", "640 MiB",
        "with every node in fp16 it passes", "differs", "the parser refused node", "another checkpoint",
        "cases beyond 320 tokens", result.sha256, "onnxruntime 1.31.1", "It ended early", "--report report.html",
        "decided by", "native was measured on", "output, kl>1e-3", "Some CPU", "huge values",
    ):  # fmt: skip
        assert part in text, part


def test_passing_shows_no_empty_section() -> None:
    document = Document(html(synthetic.passing()))
    sections = [name for name in document.values("id") if not name.endswith("-caption")]
    assert sections == ["content", "runtimes", "ulps", "outputs", "thresholds", "environment"]


def test_nothing_compared() -> None:
    text = html(synthetic.result())
    assert "Nothing was compared" in text and "hsm-export doctor" in text


def test_huge_stays_usable() -> None:
    """2,000 layers of 6 runtimes: small, cut with a word about it, and no fault hidden."""
    result = synthetic.huge()
    text = html(result)
    document = Document(text)
    assert len(text.encode()) < 5 * 2**20
    assert text.count("The worst 200 of 12,000 layers.") == 2 and "The worst 200 of 384 comparisons." in text
    assert document.count("tr") < 1000 and document.count("*") < 20000
    assert "each column stands for 9 neighbouring nodes" in text
    faults = [item for runtime in result.runtimes for item in runtime.layers if not item.passed]
    # Each fault is in another column here, so each has its circle and its bar.
    assert text.count('class="mark" cx') - 1 == text.count('class="fault-tick"') == len(faults) > 10


def test_long_names_are_shortened() -> None:
    long = synthetic.layers("ort", 1)[0]
    result = synthetic.result(
        synthetic.RuntimeDiff("ort", "same", layers=(synthetic.replace(long, node="x" * 100_000),))
    )
    assert len(html(result)) < 50_000


def test_target_must_be_writable(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="does not exist"):
        reporting.write_html(synthetic.passing(), tmp_path / "missing" / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_written_whole(tmp_path: Path) -> None:
    result: DiffResult = synthetic.failing()
    reporting.write_html(result, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == html(result)
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def _colours(dark: bool) -> dict[str, str]:
    """Return the colours of a scheme by name."""
    style = STYLE.read_text(encoding="utf-8")
    light, _, rest = style.partition("/* Paper is always light. */")
    block = rest.partition("* { box-sizing")[0] if dark else light
    return dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block))


def _luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_contrast(dark: bool) -> None:
    """WCAG AA: 4.5 for text on whatever it stands on, 3 for lines, bars and marks."""
    colours = _colours(dark)
    backgrounds = ("bg", "surface", "good-bg", "bad-bg", "warn-bg")
    texts = [(name, ground) for name in ("text", "muted", "link") for ground in backgrounds]
    texts += [(name, ground) for name in ("good", "bad", "warn") for ground in ("bg", "bad-bg")]
    texts += [("good", "good-bg")]
    graphics = [(name, "bg") for name in ("total", "inherited", "own", "threshold", "bar", "bad")]
    # What is beyond 1 stands out of what is well within; its bar below is of the colour "bad".
    graphics += [("heat-0", "heat-5"), ("heat-0", "heat-6")]
    found = {pair: contrast(colours[pair[0]], colours[pair[1]]) for pair in texts + graphics}
    assert {pair: value for pair, value in found.items() if value < (4.5 if pair in texts else 3.0)} == {}


def test_contrast_formula() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)
