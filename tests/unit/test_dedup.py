"""Duplicates: what counts as one, which row stays; order, shards and memory do not change the answer."""

from __future__ import annotations

import random
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovtune.data import dedup
from sovtune.data.dedup import (
    CROWDED,
    MIN_CHARACTERS,
    THRESHOLD,
    WIDTH,
    Duplicate,
    Member,
    Sketch,
    bucket_keys,
    fingerprint,
    keep_best,
    merge_clusters,
    pairs_in_bucket,
    priority,
    same_text,
    signature,
    sketch_all,
)
from sovtune.data.duplicate_index import DuplicateIndex, find_clusters
from sovtune.data.matching import BATCH_CHARACTERS
from sovtune.errors import UsageError

SENTENCES = {
    "ko": (
        "오늘 아침 시장에 나가 보니 햇감자가 벌써 나와 있었다 할머니는 바구니 가득 담아 주시며 값은 "
        "나중에 내라고 웃으셨다 강가의 낡은 도서관은 겨울마다 문을 닫지만 봄이 오면 아이들 목소리로 "
        "다시 시끄러워진다 기차가 늦어진 까닭을 역무원도 몰랐고 우리는 승강장 의자에서 귤을 까먹으며 "
        "한참을 기다렸다 새로 이사 온 이웃은 첼로를 켠다"
    ),
    "ar": (
        "خرجت جدتي إلى السوق قبل شروق الشمس واشترت سلة من التين الطازج ثم عادت تمشي ببطء على ضفة "
        "النهر كانت المكتبة القديمة تغلق أبوابها في الشتاء وتفتحها حين يعود الأطفال من القرى البعيدة "
        "تأخر القطار ساعة كاملة ولم يعرف أحد سبب ذلك فجلسنا نقشر البرتقال وننتظر جارنا الجديد يعزف "
        "العود كل مساء خلف نافذة زرقاء صغيرة"
    ),
    "zh": (
        "清早 去 集市 买菜 新鲜 土豆 已经 上市 奶奶 装满 篮子 笑着 说 以后 再付 河边 旧图书馆 冬天 "
        "关门 春天 孩子们 又 吵闹 起来 火车 晚点 站员 不知 原因 我们 坐在 月台 剥 橘子 等候 很久 "
        "新邻居 每晚 拉 大提琴 窗外 下着 细雨 猫 睡在 屋顶"
    ),
    "ja": (
        "今朝 市場へ 行くと 新じゃがが もう 並んで いた 祖母は 籠 いっぱいに 詰めて 代金は 後で "
        "よいと 笑った 川沿いの 古い 図書館は 冬になると 閉まり 春には 子供たちの 声で また 賑やかに "
        "なる 列車が 遅れた 理由は 駅員も 知らず ホームの 椅子で 蜜柑を むいた"
    ),
    "hi": (
        "आज सुबह बाज़ार में नए आलू आ चुके थे दादी ने टोकरी भरकर दी और हँसकर कहा कि पैसे बाद में देना "
        "नदी किनारे का पुराना पुस्तकालय सर्दियों में बंद रहता है पर वसंत में बच्चों की आवाज़ से गूँज "
        "उठता है गाड़ी देर से आई कारण स्टेशन मास्टर को भी मालूम नहीं था हम बेंच पर संतरे छीलते रहे "
        "नया पड़ोसी हर शाम सितार बजाता है"
    ),
}
UNSPACED = ("zh", "ja")


def documents(language: str, count: int, seed: int = 5) -> list[list[str]]:
    """Texts as lists of words: our own words in random order, 40 to 90 of them."""
    dice = random.Random(seed)
    words = SENTENCES[language].split()
    return [[dice.choice(words) for _ in range(dice.randint(40, 90))] for _ in range(count)]


def join(words: Sequence[str], language: str) -> str:
    return ("" if language in UNSPACED else " ").join(words)


def change_one_word(words: Sequence[str], language: str, dice: random.Random) -> list[str]:
    changed = list(words)
    at = dice.randrange(len(words))
    changed[at] = dice.choice([word for word in SENTENCES[language].split() if word != words[at]])
    return changed


def clusters(
    texts: Sequence[str], folder: Path, held_out: Sequence[int] = (), **limits: int
) -> list[Duplicate]:
    rows = [(row, sketch, row in held_out) for row, sketch in enumerate(sketch_all(texts))]
    return list(find_clusters(rows, folder, **limits))


class TestFingerprint:
    @pytest.mark.parametrize(
        "other",
        [
            "사과 3.5kg을  샀다\n",
            unicodedata.normalize("NFD", "사과 3.5kg을 샀다."),
            "사과 3.5KG을 샀다!",
            "\u200b사과3.5kg을, 샀다",
        ],
    )
    def test_composition_case_space_punctuation_do_not_count(self, other: str) -> None:
        assert fingerprint(other) == fingerprint("사과 3.5kg을 샀다.")

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ("값은 3.5", "값은 35"),
            ("[1, 23]", "[12, 3]"),
            ("답: -5", "답: 5"),
            ("1+1", "1*1"),
            ("?!", "..."),
            ("कि", "की"),
            ("كَتَبَ", "كُتِبَ"),
            ("", "?"),
        ],
    )
    def test_numbers_symbols_and_vowel_signs_count(self, one: str, other: str) -> None:
        assert fingerprint(one) != fingerprint(other)

    def test_sixteen_bytes_and_any_string(self) -> None:
        assert len(fingerprint("가")) == 16
        for text in ("", "\ud800", "\U0010ffff나", "🙂"):
            assert sketch_all([text, "다"]) == [sketch_all([text])[0], sketch_all(["다"])[0]]


class TestSignature:
    def test_short_text_has_none(self) -> None:
        assert signature("가" * (MIN_CHARACTERS - 1)) is None
        assert signature("가") is None
        assert signature("") is None
        long = signature("가나다라마바사" * 7)
        assert long is not None and len(long) == 4 * WIDTH

    def test_batches_do_not_change_a_sketch(self) -> None:
        texts = [join(words, "ko") for words in documents("ko", 40)] + [
            "",
            "짧다",
            "끝" * (BATCH_CHARACTERS + 9),
        ]
        assert sketch_all(texts) == [sketch_all([text])[0] for text in texts]

    def test_estimates_the_jaccard_index(self) -> None:
        dice = random.Random(3)
        letters = [chr(dice.randrange(0xAC00, 0xD7A3)) for _ in range(3000)]
        for shared in (300, 1000, 1700):
            one, other = "".join(letters[:2000]), "".join(letters[2000 - shared :][:2000])
            exact = (shared - 4) / (4000 - 8 - (shared - 4))
            alike, _ = dedup.compare(
                dedup.as_matrix([signature(one) or b""]),
                dedup.as_matrix([signature(other) or b""]),
                THRESHOLD,
            )
            assert abs(alike[0] - exact) < 0.13  # three standard errors

    def test_a_changed_algorithm_is_noticed(self) -> None:
        """Signatures are cached: when this fails, ``dedup.ALGORITHM`` must change with the signature."""
        assert dedup.ALGORITHM == "rensa2-squeeze1-5-128-25x5-44-12"
        known = signature(SENTENCES["ko"])
        assert known is not None
        assert np.frombuffer(known, "<u4")[[0, 1, 127, 128]].tolist() == [
            292127509,
            1544246909,
            532532598,
            133,
        ]


class TestNearDuplicates:
    @pytest.mark.parametrize("language", list(SENTENCES))
    def test_one_word_changed_is_found(self, language: str, tmp_path: Path) -> None:
        dice = random.Random(11)
        originals = documents(language, 300)
        copies = [change_one_word(words, language, dice) for words in originals[:200]]
        texts = [join(words, language) for words in originals + copies]
        dropped = {gone.row: gone for gone in clusters(texts, tmp_path)}
        found = 0
        for copy in range(300, 500):
            gone = dropped.get(copy) or dropped.get(copy - 300)
            found += gone is not None and {gone.row, gone.kept} == {copy, copy - 300}
        assert found >= 0.97 * 200
        assert not [row for row in dropped if 200 <= row < 300]  # rows without a copy stay
        assert len(dropped) <= 200

    @pytest.mark.parametrize("letters", [48, 60, 80])
    def test_one_word_changed_in_a_short_paragraph(self, letters: int, tmp_path: Path) -> None:
        """Where one Korean word brings the Jaccard index below 0.7 on its own."""
        dice = random.Random(2)
        originals, copies = [], []
        for words in documents("ko", 200):
            size = np.cumsum([len(word) for word in words])
            start = words[: int(np.searchsorted(size, letters)) + 1]
            originals.append(start)
            copies.append(change_one_word(start, "ko", dice))
        texts = [join(words, "ko") for words in originals + copies]
        dropped = {gone.row for gone in clusters(texts, tmp_path)}
        assert sum(row in dropped or row + 200 in dropped for row in range(200)) >= 0.95 * 200

    def test_short_chat_turns_that_differ_in_one_word_stay(self, tmp_path: Path) -> None:
        turns = ["은행은 몇 시에 문을 여나요?", "약국은 몇 시에 문을 여나요?", "은행은 몇 시에 문을 닫나요?"]
        assert not clusters(turns, tmp_path)
        again = clusters([*turns, "은행은 몇시에 문을 여나요"], tmp_path)
        assert again == [Duplicate(3, 0, "exact_duplicate", 1.0)]

    def test_template(self, tmp_path: Path) -> None:
        """Mostly template: near-duplicates. Mostly filling: not."""
        head = (
            "다음 글을 읽고 글쓴이가 말하고자 하는 바를 한 문장으로 간추려 쓰되 없는 낱말을 지어내지 마시오 "
        )
        short = [head + filling for filling in ("비가 온다", "눈이 온다")]
        assert [gone.reason for gone in clusters(short, tmp_path / "a")] == ["near_duplicate"]
        long = [head + join(words[:30], "ko") for words in documents("ko", 8)]
        assert not clusters(long, tmp_path / "b")

    def test_threshold_moves_the_line(self, tmp_path: Path) -> None:
        words = documents("ko", 1)[0]
        texts = [join(words, "ko"), join(words[: int(0.8 * len(words))], "ko")]
        rows = list(enumerate(sketch_all(texts)))
        drops = [
            len(list(find_clusters([(n, s, False) for n, s in rows], tmp_path, threshold=t)))
            for t in (0.5, 1.0)
        ]
        assert drops == [1, 0]
        with pytest.raises(UsageError, match=r"0\.3"):
            DuplicateIndex(tmp_path, threshold=0.3)


class TestWhichRowStays:
    def texts(self) -> tuple[str, str, str]:
        words = documents("ko", 1)[0]
        return join(words, "ko"), join([*words, "그리고", "끝났다"], "ko"), join(["또", *words], "ko")

    def test_the_longest(self, tmp_path: Path) -> None:
        one, longest, other = self.texts()
        assert {(g.row, g.kept) for g in clusters([one, longest, other], tmp_path)} == {(0, 1), (2, 1)}

    def test_the_first_of_equals_and_the_fuller_punctuated(self, tmp_path: Path) -> None:
        one = self.texts()[0]
        assert [(g.row, g.kept) for g in clusters([one, one], tmp_path / "a")] == [(1, 0)]
        assert [(g.row, g.kept) for g in clusters([one, one + "."], tmp_path / "b")] == [(0, 1)]

    def test_held_out_always_wins_and_is_never_dropped(self, tmp_path: Path) -> None:
        one, longest, other = self.texts()
        gone = clusters([one, longest, other, one, "짧다", "짧다!"], tmp_path, held_out=[0, 2, 5])
        assert {(g.row, g.kept, g.reason) for g in gone} == {
            (1, 2, "near_duplicate_of_heldout"),  # 2 is the longer of the two held out
            (3, 0, "exact_duplicate_of_heldout"),
            (4, 5, "exact_duplicate_of_heldout"),
        }

    def test_the_ends_of_a_chain_both_stay(self, tmp_path: Path) -> None:
        """Text drifts: each step is a near-duplicate of the next, the ends are not of each other."""
        words = documents("ko", 1)[0][:60]
        fresh = documents("ko", 1, seed=99)[0]
        steps = [join(fresh[:n] + words[n:], "ko") for n in range(0, 36, 5)]
        sketches = sketch_all(steps)
        assert not same_text(sketches[0], sketches[-1])
        gone = clusters(steps, tmp_path)
        assert gone
        assert all(same_text(sketches[g.row], sketches[g.kept]) for g in gone)
        kept = set(range(len(steps))) - {g.row for g in gone}
        assert not any(same_text(sketches[a], sketches[b]) for a in kept for b in kept if a < b)

    def test_kept_rows_are_kept(self, tmp_path: Path) -> None:
        texts = [join(w, "ko") for words in documents("ko", 20) for w in (words, words[1:], words[2:], words)]
        gone = clusters(texts, tmp_path)
        assert not {g.kept for g in gone} & {g.row for g in gone}
        assert len(gone) == 60


def by_shuffle(rows: Sequence[tuple[int, Sketch, bool]]) -> set[Duplicate]:
    """The same search out of the pure functions alone, as workers that shuffle by bucket would do it."""
    members = {row: Member(row, sketch, held_out) for row, sketch, held_out in rows}
    buckets = defaultdict(set)
    for row, sketch, _ in rows:
        for key in bucket_keys(sketch):
            buckets[key].add(row)
    pairs = []
    for bucket in buckets.values():
        for one, other in pairs_in_bucket(np.array(sorted(bucket))):
            pairs += [
                (a, b)
                for a, b in zip(one.tolist(), other.tolist(), strict=True)
                if same_text(members[a].sketch, members[b].sketch)
            ]
    groups = defaultdict(list)
    for row, top in merge_clusters(pairs).items():
        groups[top].append(members[row])
    return {gone for group in groups.values() for gone in keep_best(sorted(group, key=priority))}


def planted(seed: int) -> list[tuple[int, Sketch, bool]]:
    """Rows with exact, near, short and held-out duplicates among them."""
    dice = random.Random(seed)
    texts: list[str] = []
    for words in documents("ko", 25, seed):
        texts += [join(words, "ko")] * dice.choice([1, 1, 2])
        for _ in range(dice.choice([0, 1, 4])):
            words = change_one_word(words, "ko", dice)  # noqa: PLW2901
            texts.append(join(words, "ko"))
        texts.append(" ".join(words[: dice.choice([1, 2, 8])]))
    return [(row, sketch, dice.random() < 0.1) for row, sketch in enumerate(sketch_all(texts))]


class TestOrderAndShards:
    @settings(max_examples=15, derandomize=True, deadline=None)
    @given(seed=st.integers(0, 10**6), memory=st.sampled_from([1, 20_000, 1 << 26]), shuffle=st.randoms())
    def test_neither_order_nor_memory_nor_engine_matters(
        self, seed: int, memory: int, shuffle: random.Random, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        rows = planted(seed)
        mixed = list(rows)
        shuffle.shuffle(mixed)
        folder = tmp_path_factory.mktemp("index")
        found = set(find_clusters(mixed, folder, memory_bytes=memory))
        assert found == by_shuffle(rows)
        assert {gone.reason for gone in found} & {"near_duplicate", "exact_duplicate"}

    def test_rows_come_out_in_order(self, tmp_path: Path) -> None:
        found = [gone.row for gone in find_clusters(planted(1), tmp_path)]
        assert found == sorted(found) and len(found) > 20

    def test_pairs_may_come_in_any_order(self) -> None:
        pairs = [(1, 2), (5, 4), (2, 9), (4, 1)]
        assert merge_clusters(pairs) == merge_clusters(pairs[::-1]) == dict.fromkeys((1, 2, 4, 5, 9), 1)

    def test_order_does_not_matter_in_a_crowded_bucket_either(self, tmp_path: Path) -> None:
        """Rows that share one band only; which of them are compared depends on their place in the input."""
        numbers = np.random.default_rng(8)
        hashes = numbers.integers(0, 2**32, (CROWDED + 100, WIDTH), dtype=np.uint32)
        half = len(hashes) // 2
        hashes[half:, :] = hashes[:half, :]
        hashes[half:, 5:125:5] += 1  # one hash of each other band: 0.81 alike
        hashes[:, :5] = 7
        rows = [
            (row, Sketch(numbers.bytes(16), own.tobytes(), 900), False)
            for row, own in enumerate(hashes[numbers.permutation(len(hashes))])
        ]
        expected = by_shuffle(rows)
        assert 20 < len(expected) < half
        for turn, mixed in enumerate((rows, rows[::-1], random.Random(3).sample(rows, len(rows)))):
            assert set(find_clusters(mixed, tmp_path / str(turn))) == expected

    def test_crowded_bucket(self, tmp_path: Path) -> None:
        """More members than are compared pair by pair: exact copies far apart still find each other."""
        words = documents("ko", 1)[0] * 3
        variants = [join([*words, f"가{n}나"], "ko") for n in range(CROWDED)]
        texts = variants + variants
        with DuplicateIndex(tmp_path) as index:
            order = list(enumerate(sketch_all(texts)))
            random.Random(1).shuffle(order)
            for row, sketch in order:
                index.add(row, sketch)
            gone = list(index.duplicates())
            assert index.stats.crowded > 0
        assert len(gone) == len(texts) - 1
        assert sum(g.reason == "exact_duplicate" for g in gone) >= 1
