"""Words near a number that say what the number is, or that it is something else."""

from __future__ import annotations

import re
import unicodedata
from functools import cached_property

from sovtune.data.pii.placeholders import ALL_PLACEHOLDERS, LONGEST_PLACEHOLDER

BEFORE = 40
"""Characters read to the left of a number; a label, a particle and a colon fit in."""
AFTER = 16
"""Characters read to the right: "(휴대폰)", "(mobile)"."""
DENY_WITHIN = 24
"""Characters to the left in which a word like "order number" takes the number for itself."""

# kind -> (words searched anywhere, expressions searched between word boundaries, any case).
# Scripts without spaces or with prefixes and particles (هوية in الهوية) need the first; Latin needs the
# second.
_WORDS: dict[str, tuple[str, str]] = {
    "phone": (
        "전화 휴대폰 핸드폰 휴대전화 연락처 연락 팩스 대표번호"
        " هاتف جوال موبايل تلفون تليفون اتصل للاتصال اتصال واتس فاكس محمول نقال"
        " تلفن موبایل همراه تماس"
        " 电话 手机 联系方式 联系人 致电 拨打 热线 传真 電話 手機 聯絡 傳真"
        " 携帯 連絡先 ケータイ ファックス ＴＥＬ"
        " फ़ोन फोन मोबाइल मोबाईल संपर्क सम्पर्क दूरभाष कॉल व्हाट्सएप",
        r"tel|t[eé]l[eé]phone|phones?|mobile|cell(?:ular|phone)?|fax|whatsapp|call(?: me| us)?|contact"
        r"|hp|h\.p|ph|gsm|cep"
        r"|telefon\w*|ileti[sş]im\w*|aray[ıi]n\w*|numaram\w*|telepon|telpon|telp|ponsel|hubungi|wa"
        r"|điện thoại|đt|sđt|di động|liên hệ|gọi|zalo|hotline|số máy",
    ),
    "kr_rrn": ("주민등록 주민번호 주민_번호 생년월일", r"rrn|resident registration"),
    "kr_frn": (
        "외국인등록 외국인_등록 외국인번호 주민등록 거소신고 등록번호",
        r"frn|arc|alien registration|foreigner registration",
    ),
    "kr_brn": ("사업자 사업자등록 등록번호", r"brn|business registration"),
    "cn_rid": ("身份证 身份證 身分证 身分證 证件号 公民身份 证件", r"resident identity|id card"),
    "cn_uscc": ("社会信用 社會信用 信用代码 信用代碼 税号 纳税人识别 营业执照", r"uscc|social credit"),
    "jp_my_number": ("マイナンバー 個人番号 個人ナンバー 通知カード", r"my number|individual number"),
    "sa_id": (
        "هوية الهوية هويتي هويته إقامة اقامة الإقامة السجل_المدني سجل_مدني بطاقة_الأحوال",
        r"iqama|national id|saudi id|id (?:number|no)|civil registry",
    ),
    "ae_id": ("هوية الهوية إماراتي الإمارات", r"emirates id|eid|id (?:number|no)"),
    "in_aadhaar": ("आधार यूआईडी", r"aadhaar|aadhar|adhaar|uidai|uid"),
    "in_pan": ("पैन आयकर", r"pan|permanent account|income tax"),
    "tr_tckn": ("", r"t\.? ?c\.?(?: kimlik)?|tckn|kimlik\w*|vatandaşlık\w*|identity number"),
    "id_nik": ("", r"nik|ktp|e-ktp|kependudukan|induk"),
    "vn_cccd": ("", r"cccd|căn cước\w*|cmnd|chứng minh|định danh|số định danh"),
    "payment_card": (
        "카드"
        " بطاقة بطاقت"
        " 银行卡 信用卡 卡号 卡號"
        " カード クレジット"
        " कार्ड क्रेडिट डेबिट",
        r"cards?|visa|master ?card|amex|american express|kart\w*|kartu|thẻ|credit|debit|kredi\w*|kredit",
    ),
    "ip": (
        "아이피 접속 주소 서버"
        " عنوان"
        " 地址 服务器 登录 伺服器"
        " アドレス アクセス 接続"
        " आईपी पता",
        r"ip|ipv4|address\w*|adres\w*|alamat|địa chỉ|host|server|client|login|logged in|connect\w*|ping|from",
    ),
}  # fmt: skip

# Words that claim the number that follows for something that is no personal datum of ours.
_DENY = (
    "주문 송장 배송 접수번호 일련번호 시리얼 법인등록 법인번호 계좌 바코드 버전 모델명 모델번호"
    " 제품번호 품번 타임스탬프 시드 청구번호 상품번호 도서번호 특허"
    " طلب الطلب الطلبية فاتورة شحنة تتبع إصدار تسلسلي"
    " 订单 訂單 运单 快递 流水号 版本 序列号 发票 型号 专利"
    " 注文番号 伝票 追跡 問い合わせ番号 型番 バージョン 製品番号 シリアル 特許"
    " ऑर्डर चालान संस्करण सीरियल",
    r"isbn|issn|doi|upc|ean|gtin|sku|imei|orders?|order (?:no|number|id)|invoice|tracking|serial|version|ver"
    r"|seed|timestamp|patent|part (?:no|number)|model|commit|build|sipariş\w*|fatura\w*|kargo\w*|sürüm\w*"
    r"|takip|pesanan|resi|faktur|invois|versi|phiên bản|đơn hàng|vận đơn|hóa đơn|mã đơn|v",
)


def _compile(words: str, latin: str) -> re.Pattern[str]:
    # An underscore stands for a space inside a label.
    parts = [re.escape(word.replace("_", " ")) for word in unicodedata.normalize("NFC", words).split()]
    if latin:
        # Boundaries by Latin letters only: Korean and Japanese write TEL은, IPアドレス without a space.
        letters = "A-Za-zÀ-ɏḀ-ỿ"
        parts.append(f"(?<![{letters}@])(?:{unicodedata.normalize('NFC', latin)})(?![{letters}]|\\.[a-z])")
    return re.compile("|".join(parts), re.IGNORECASE)


_CLAUSE_END = re.compile(r"[,;\n。、，；،؛।\d]|\. ")
_LETTER = re.compile(r"[^\W\d_]")
_SUPPORT = {kind: _compile(words, latin) for kind, (words, latin) in _WORDS.items()}
_DENIAL = _compile(*_DENY)


def _left(text: str, position: int) -> str:
    """Up to `BEFORE` characters before a position without placeholders, which label no neighbour."""
    parts: list[str] = []
    need = BEFORE
    while need > 0 and position > 0:
        if text[position - 1] == ">":
            opening = text.rfind("<", max(0, position - LONGEST_PLACEHOLDER), position)
            if opening >= 0 and text[opening:position] in ALL_PLACEHOLDERS:
                position = opening
                continue
        start = max(position - need, text.rfind(">", max(0, position - need), position - 1) + 1, 0)
        parts.append(text[start:position])
        need -= position - start
        position = start
    return "".join(reversed(parts))


def _right(text: str, position: int) -> str:
    """Up to `AFTER` characters after a position, placeholders left out."""
    parts: list[str] = []
    need = AFTER
    while need > 0 and position < len(text):
        if text[position] == "<":
            closing = text.find(">", position, position + LONGEST_PLACEHOLDER) + 1
            if closing > 0 and text[position:closing] in ALL_PLACEHOLDERS:
                position = closing
                continue
        end = min(position + need, len(text))
        opening = text.find("<", position + 1, end)
        end = opening if opening > 0 else end
        parts.append(text[position:end])
        need -= end - position
        position = end
    return "".join(parts)


class Context:
    """The words around one candidate; computed once, asked for several kinds."""

    def __init__(self, text: str, start: int, end: int):
        self._before = _left(text, start)
        # A label after the number belongs to it only within the same clause: the next one labels the next
        # number.
        self._after = _CLAUSE_END.split(_right(text, end), maxsplit=1)[0]
        # In a table of numbers there is nothing to read.
        self._wordless = not (_LETTER.search(self._before) or _LETTER.search(self._after))

    def supports(self, kind: str) -> bool:
        """Whether a word of the kind stands near and no denying word stands nearer."""
        if self._wordless:
            return False
        pattern = _SUPPORT[kind]
        last = max((match.end() for match in pattern.finditer(self._before)), default=-1)
        if last >= 0:
            return last >= self._denied_at
        return self._denied_at < 0 and pattern.search(self._after) is not None

    def denies(self) -> bool:
        """Whether a word before calls the number an order, a version, an ISBN or the like."""
        return not self._wordless and self._denied_at >= 0

    @cached_property
    def _denied_at(self) -> int:
        near = max(0, len(self._before) - DENY_WITHIN)
        return max((match.end() for match in _DENIAL.finditer(self._before, near)), default=-1)
