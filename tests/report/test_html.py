"""The page: well-formed, alone in the world, complete, safe, the same every time, and small."""

from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser

import pytest
from report_example import EMPTY, bell, full, layer, with_layers

from halfstep.report import figures as drawing
from halfstep.report import html, words
from halfstep.report.record import ExportCheck, FloatOperator, HistogramRecord, LayerFigures

VOID = {"meta", "br", "wbr", "hr", "img", "input", "link"}
SELF_CLOSING = {"path", "rect"}
NASTY = "<script>alert(\"x\")</script>&'block'.conv"


class Page(HTMLParser):
    """Reads a page and complains about tags that do not match."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in SELF_CLOSING, f"<{tag}> is not closed"
        self._enter(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSING
        self._enter(tag, attrs)

    def _enter(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for key, value in attrs:
            self.attributes.append((tag, key, value or ""))
            if key == "id":
                self.ids.append(value or "")
            if key == "href":
                self.targets.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text += data


def test_page_is_well_formed_and_complete() -> None:
    record, figures = full()
    page = Page(html.render(record, figures))
    for item in record.layers:
        assert page.text.count(item.name) >= 2, "in the table and in the details"
    for shown in (
        "92.55 %",
        "0.05 points below float",
        "4.00× smaller",
        "2.10× faster",
        "Verified",
        "w4a8",
        "seed 7",
        "Batch size 1 was fixed.",
    ):
        assert shown in page.text.replace("\xa0", " "), shown
    for shown in ("aten.grid_sampler_2d", "not known to the graph", "2.13.0", "a processor", "1.30 s", "812 MB", "42\xa0quantized tensors"):
        assert shown in page.text, shown
    assert page.tags.count("details") == len(record.layers)
    assert page.tags.count("svg") == 1 + 2 * len(record.layers)


def test_ids_are_unique_and_links_lead_somewhere() -> None:
    record, figures = full()
    twice = with_layers(record, *record.layers, *record.layers)
    page = Page(html.render(twice, figures))
    assert len(page.ids) == len(set(page.ids)) == 2 * len(record.layers)
    assert page.targets
    assert {target.removeprefix("#") for target in page.targets} <= set(page.ids)


def test_page_asks_for_nothing_from_outside() -> None:
    text = html.render(*full())
    page = Page(text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|javascript:", text)
    assert not {"img", "link", "iframe", "object", "embed", "base"} & set(page.tags)
    assert not [entry for entry in page.attributes if entry[1] in {"src", "srcset", "action", "data"} or entry[1].startswith("on")]
    assert ("meta", "content", html._POLICY) in page.attributes


def test_everything_from_outside_is_escaped() -> None:
    record, _ = full()
    record = dataclasses.replace(
        record,
        model=NASTY,
        recipe=NASTY,
        metric=NASTY,
        notes=(NASTY,),
        float_operators=(FloatOperator(NASTY, NASTY, NASTY),),
        versions={NASTY: NASTY},
        machine={NASTY: NASTY},
        seconds={"phases": {NASTY: {"wall": 1.0}}},
        export_check=dataclasses.replace(record.export_check or ExportCheck(1, 1, "", 1, 0, 0, 1, 1), worst_edge=NASTY),
    )
    nasty = dataclasses.replace(layer(NASTY), operator=NASTY, output=dataclasses.replace(layer("").output, grid=NASTY))  # type: ignore[type-var]
    text = html.render(with_layers(record, nasty), {NASTY: LayerFigures(bell(), bell(), bell())})
    assert text.count("<script>") == 1
    assert Page(text).text.count("<script>alert") >= 14


def test_same_record_gives_the_same_page() -> None:
    assert html.render(*full()) == html.render(*full())


def test_missing_values_read_well() -> None:
    page = Page(html.render(EMPTY, {}))
    assert page.text.count("not evaluated") >= 4
    assert "not exported" in page.text
    assert "No layer was recorded" in page.text
    for word in ("None", "nan", "inf", "Notes", "What stays in float"):
        assert word not in page.text.split()


def test_values_that_are_not_finite_count_as_missing() -> None:
    item = layer("conv", sqnr_db=math.nan, weight_db=math.inf)
    record = dataclasses.replace(with_layers(EMPTY, item), float=math.nan, onnx=math.nan)
    page = Page(html.render(record, {"conv": LayerFigures(HistogramRecord(math.nan, 1.0, (1,)))}))
    assert "SQNR was not evaluated" in page.text
    assert not re.search(r"\b(nan|inf|None)\b", page.text)


def test_layer_without_weights_or_figures_says_so() -> None:
    page = Page(html.render(with_layers(EMPTY, layer("add", "add"), layer("conv")), {}))
    assert "none in this layer" in page.text
    assert page.text.count("not recorded") >= 3
    assert page.tags.count("svg") == 1


@pytest.mark.parametrize(
    ("difference", "verdict", "kind"), [(1, "Verified", "good"), (2, "Beyond the bound", "poor"), (0, "Verified", "good")]
)
def test_export_check_gives_its_verdict(difference: int, verdict: str, kind: str) -> None:
    record = dataclasses.replace(EMPTY, export_check=ExportCheck(difference, 1, "conv", 3, 0.0, 0.0, 1.0, 8))
    page = Page(html.render(record, {}))
    assert verdict in page.text
    assert ("b", "class", kind) in page.attributes


def test_worst_layers_stand_out() -> None:
    record, figures = full(12)  # 40 dB downwards by 1 dB a layer: the last three are the worst, all above 20 dB
    text = html.render(record, figures)
    assert text.count('class="n db worst" data-v') >= 3
    for value in (31.0, 30.0, 29.0):
        assert f'worst" data-v="{value:.4f}"' in text
    assert 'worst" data-v="32.0000"' not in text
    assert "Lowest output SQNR: " in text
    assert [html.level(value) for value in (20.0, 19.99, 10.0, 9.99)] == ["", "low", "low", "poor"]


def test_two_hundred_layers_stay_small() -> None:
    """Three full histograms a layer take some 7.5 kB, however the counts are spread; 15 kB is what 3 MB leave to each of 200."""
    names = [f"features.denseblock4.denselayer{index}.conv2" for index in range(200)]
    # No two neighbours of the 128 merged bins are equal, so none can share a line.
    jagged = HistogramRecord(-1.0, 1.0, tuple(1 + 999 * ((index // 16) % 2) for index in range(2048)), (-0.9, 0.9))
    figures = dict.fromkeys(names, LayerFigures(jagged, jagged, jagged))
    assert len(html.render(with_layers(EMPTY, *map(layer, names)), figures)) < 3_000_000


# The pictures


def paths(svg: str, kind: str) -> list[str]:
    return re.findall(rf'<path class="{kind}" d="([^"]+)"/>', svg)


def test_bins_are_merged_and_no_count_is_lost() -> None:
    item = bell(2048)
    ((edges, counts),) = drawing._merged([item])
    assert len(counts) <= drawing.NUM_BINS
    assert sum(counts) == sum(item.counts)
    assert len(edges) == len(counts) + 1


def test_empty_ends_are_cut_and_the_last_bin_may_be_short() -> None:
    item = HistogramRecord(0.0, 1000.0, (0,) * 10 + (5,) * 300 + (0,) * 690)
    ((edges, counts),) = drawing._merged([item])
    assert edges[0] == 10
    assert edges[-1] == 310
    assert sum(counts) == 1500


def test_overlay_keeps_bins_alike_together() -> None:
    before = HistogramRecord(0.0, 10.0, (0, 1, 2, 3, 4, 5, 4, 3, 2, 1))
    after = HistogramRecord(0.0, 10.0, (0, 0, 0, 9, 0, 0, 9, 0, 0, 0))
    (edges_before, _), (edges_after, counts) = drawing._merged([before, after])
    assert edges_before == edges_after == list(range(1, 11))
    assert counts == [0, 0, 9, 0, 0, 9, 0, 0, 0]


def test_bars_end_where_the_counts_say() -> None:
    """One bin of 9 and one of 0, 99: tops in the proportion of log10(10) to log10(100)."""
    svg = drawing.histogram("h", (HistogramRecord(0.0, 3.0, (9, 0, 99)), "activation"))
    (path,) = paths(svg, "activation")
    bottom, first, second = drawing._BOTTOM, *(float(value) for value in re.findall(r"V([\d.]+)", path)[:3:2])
    assert (bottom - second) / (bottom - first) == pytest.approx(2.0, abs=0.01)  # heights of some 50 units, written to 0.1


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [((-1.0, 1.0), 0.5), ((-2.0, 2.0), 0.0), ((0.0, 5.0), 0.5), ((-1.5, 1.5), 0.25), ((3.0, 4.0), 1.0)],
)
def test_share_outside_the_threshold(threshold: tuple[float, float], expected: float) -> None:
    assert drawing.share_outside(HistogramRecord(-2.0, 2.0, (5, 5, 5, 5), threshold)) == pytest.approx(expected)


def test_threshold_is_marked_labelled_and_tinted() -> None:
    svg = drawing.histogram("h", (bell(threshold=(-1.25, 2.5)), "activation"))
    assert len(paths(svg, "mark")) == 2
    assert ">-1.25</text>" in svg
    assert ">2.5</text>" in svg
    assert svg.count('class="outside"') == 2


@pytest.mark.parametrize("threshold", [(-0.01, 0.01), (0.0, 4.0), (-40.0, 40.0), (-4.0, -3.99), (2.0, 2.0)])
def test_threshold_labels_never_touch(threshold: tuple[float, float]) -> None:
    svg = drawing.histogram("h", (bell(threshold=threshold), "activation"))
    found = re.findall(r'<text class="mark" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">', svg)
    spans = []
    for x, y, anchor in found:
        start = float(x) - (0 if anchor == "start" else 50)  # seven figures of 7 units
        spans.append((start, start + 50, y))
        assert start >= 0
        assert start + 50 <= drawing._WIDTH
    (first, second) = spans
    assert first[2] != second[2] or first[1] < second[0]


@pytest.mark.parametrize(
    "item",
    [
        HistogramRecord(0.0, 0.0, (7,)),
        HistogramRecord(3.0, 3.0, (0, 7, 0), (3.0, 3.0)),
        HistogramRecord(-1e-30, 1e-30, (1, 2)),
        HistogramRecord(-1e30, 1e30, (1, 2), (-1.0, 1.0)),
        HistogramRecord(0.0, 1.0, (10**15,)),
        HistogramRecord(0.0, 1.0, (1, 1), (math.nan, math.inf)),
    ],
)
def test_odd_histograms_are_drawn_inside_the_picture(item: HistogramRecord) -> None:
    svg = drawing.histogram("h", (item, "activation"))
    Page(svg)
    assert not re.search(r"nan|inf|e[+-]\d", re.sub(r">[^<]*<", "><", svg))
    for x in re.findall(r'\bx="([^"]+)"', svg):
        assert 0 <= float(x) <= drawing._WIDTH
    assert len(paths(svg, "activation")) == 1


def test_depth_shows_every_point_and_names_it() -> None:
    points = [(index, f"l{index}<", float(index % 50) - 5) for index in range(1, 201)]
    svg = drawing.depth((("output", points), ("weights", points[:3])), 200, html.level)
    assert svg.count("<circle") == 203
    assert "l7&lt;: 2.0 dB" in svg
    Page(svg)
    for y in re.findall(r'cy="([^"]+)"', svg):
        assert 0 <= float(y) <= 244


# Numbers in words


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_999, "10.0 kB"),
        (99_990, "100 kB"),
        (999_600, "1.00 MB"),
        (None, "–"),
        (math.nan, "–"),
    ],
)
def test_sizes(value: float | None, shown: str) -> None:
    assert words.size(value) == shown


def test_small_words() -> None:
    assert words.fixed(-0.004, 2) == "0.00"
    assert words.fixed(-0.4, 1) == "-0.4"
    assert words.difference("top1", 92.6, 92.55) == "0.05"
    assert words.difference("top1", 92.6, 92.7) == "-0.10"
    assert words.difference("psnr", 30.0, 29.5) == "-0.5"
    assert words.change_sentence("top1", 92.6, 92.601) == "the same as float (92.60 %)"
    assert words.share(1e-7) == "less than 0.01 %"
    assert words.share(0.999999) == "more than 99.99 %"
    assert words.share(1.0) == "100 %"
    assert words.duration(200) == "3 min 20 s"
    assert words.duration(0.0314) == "0.031 s"
    assert words.ratio(1, 0) is None
    assert words.metric_name("top5") == "top-5"
    assert words.real(-0.0) == "0"
