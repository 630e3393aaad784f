"""What stands in place of a personal datum: one typed placeholder per kind, in the language of the corpus."""

from __future__ import annotations

import re

KINDS: tuple[str, ...] = (
    "phone", "email", "iban", "payment_card", "ip",
    "kr_rrn", "kr_frn", "kr_brn", "cn_rid", "cn_uscc", "jp_my_number", "sa_id", "ae_id",
    "in_aadhaar", "in_pan", "tr_tckn", "id_nik", "vn_cccd", "secret",
)  # fmt: skip
"""Every kind that has a placeholder; ``secret`` is for spans that `sovtune.secrets` finds."""

_NAMES: dict[str, tuple[str, ...]] = {
    "ko": (
        "전화번호",
        "이메일",
        "국제은행계좌번호",
        "카드번호",
        "IP 주소",
        "주민등록번호",
        "외국인등록번호",
        "사업자등록번호",
        "중국 신분증번호",
        "중국 통일사회신용코드",
        "일본 마이넘버",
        "사우디 신분증번호",
        "에미리트 신분증번호",
        "인도 아드하르 번호",
        "인도 PAN 번호",
        "튀르키예 신분증번호",
        "인도네시아 주민번호",
        "베트남 신분증번호",
        "비밀값",
    ),
    "ar": (
        "رقم الهاتف",
        "البريد الإلكتروني",
        "رقم الآيبان",
        "رقم البطاقة",
        "عنوان IP",
        "رقم التسجيل الكوري",
        "رقم تسجيل أجنبي كوري",
        "رقم السجل التجاري الكوري",
        "رقم الهوية الصينية",
        "الرمز الائتماني الصيني",
        "الرقم الشخصي الياباني",
        "رقم الهوية",
        "رقم الهوية الإماراتية",
        "رقم آدهار",
        "رقم PAN الهندي",
        "رقم الهوية التركية",
        "رقم الهوية الإندونيسية",
        "رقم الهوية الفيتنامية",
        "بيانات سرية",
    ),
    "zh": (
        "电话号码",
        "电子邮箱",
        "国际银行账号",
        "银行卡号",
        "IP地址",
        "韩国居民登录号",
        "韩国外国人登录号",
        "韩国营业执照号",
        "身份证号",
        "统一社会信用代码",
        "日本个人编号",
        "沙特身份证号",
        "阿联酋身份证号",
        "印度Aadhaar号",
        "印度PAN号",
        "土耳其身份证号",
        "印尼身份证号",
        "越南身份证号",
        "密钥",
    ),
    "zh-Hant": (
        "電話號碼",
        "電子郵件",
        "國際銀行帳號",
        "信用卡號",
        "IP位址",
        "韓國居民登錄號",
        "韓國外國人登錄號",
        "韓國營業執照號",
        "身分證號",
        "統一社會信用代碼",
        "日本個人編號",
        "沙烏地身分證號",
        "阿聯酋身分證號",
        "印度Aadhaar號",
        "印度PAN號",
        "土耳其身分證號",
        "印尼身分證號",
        "越南身分證號",
        "密鑰",
    ),
    "ja": (
        "電話番号",
        "メールアドレス",
        "国際銀行口座番号",
        "カード番号",
        "IPアドレス",
        "韓国住民登録番号",
        "韓国外国人登録番号",
        "韓国事業者登録番号",
        "中国身分証番号",
        "中国統一社会信用コード",
        "マイナンバー",
        "サウジ身分証番号",
        "UAE身分証番号",
        "インドAadhaar番号",
        "インドPAN番号",
        "トルコ身分証番号",
        "インドネシア身分証番号",
        "ベトナム身分証番号",
        "秘密情報",
    ),
    "hi": (
        "फ़ोन नंबर",
        "ईमेल",
        "आईबैन",
        "कार्ड नंबर",
        "आईपी पता",
        "कोरियाई निवासी संख्या",
        "कोरियाई विदेशी संख्या",
        "कोरियाई व्यवसाय संख्या",
        "चीनी पहचान संख्या",
        "चीनी सामाजिक क्रेडिट कोड",
        "जापानी माई नंबर",
        "सऊदी पहचान संख्या",
        "अमीरात पहचान संख्या",
        "आधार संख्या",
        "पैन संख्या",
        "तुर्की पहचान संख्या",
        "इंडोनेशियाई पहचान संख्या",
        "वियतनामी पहचान संख्या",
        "गोपनीय कुंजी",
    ),
    "tr": (
        "telefon numarası",
        "e-posta",
        "IBAN numarası",
        "kart numarası",
        "IP adresi",
        "Kore kimlik numarası",
        "Kore yabancı kimlik numarası",
        "Kore vergi numarası",
        "Çin kimlik numarası",
        "Çin işletme kodu",
        "Japon kimlik numarası",
        "Suudi kimlik numarası",
        "BAE kimlik numarası",
        "Aadhaar numarası",
        "Hindistan PAN numarası",
        "T.C. kimlik numarası",
        "Endonezya kimlik numarası",
        "Vietnam kimlik numarası",
        "gizli anahtar",
    ),
    "id": (
        "nomor telepon",
        "alamat email",
        "nomor IBAN",
        "nomor kartu",
        "alamat IP",
        "nomor penduduk Korea",
        "nomor orang asing Korea",
        "nomor usaha Korea",
        "nomor identitas Tiongkok",
        "kode usaha Tiongkok",
        "nomor identitas Jepang",
        "nomor identitas Saudi",
        "nomor identitas UEA",
        "nomor Aadhaar",
        "nomor PAN India",
        "nomor identitas Turki",
        "NIK",
        "nomor identitas Vietnam",
        "kunci rahasia",
    ),
    "vi": (
        "số điện thoại",
        "địa chỉ email",
        "số IBAN",
        "số thẻ",
        "địa chỉ IP",
        "số cư dân Hàn Quốc",
        "số người nước ngoài Hàn Quốc",
        "mã doanh nghiệp Hàn Quốc",
        "số căn cước Trung Quốc",
        "mã doanh nghiệp Trung Quốc",
        "số cá nhân Nhật Bản",
        "số căn cước Ả Rập Xê Út",
        "số căn cước UAE",
        "số Aadhaar",
        "số PAN Ấn Độ",
        "số căn cước Thổ Nhĩ Kỳ",
        "số căn cước Indonesia",
        "số căn cước công dân",
        "khóa bí mật",
    ),
    "fa": (
        "شماره تلفن",
        "نشانی ایمیل",
        "شماره شبا",
        "شماره کارت",
        "نشانی IP",
        "شماره ثبت کره",
        "شماره اتباع خارجی کره",
        "شماره کسب‌وکار کره",
        "شماره شناسایی چین",
        "کد اعتباری چین",
        "شماره فردی ژاپن",
        "شماره شناسایی عربستان",
        "شماره شناسایی امارات",
        "شماره آدهار",
        "شماره PAN هند",
        "شماره شناسایی ترکیه",
        "شماره شناسایی اندونزی",
        "شماره شناسایی ویتنام",
        "کلید محرمانه",
    ),
    "en": (
        "phone number",
        "email address",
        "IBAN",
        "card number",
        "IP address",
        "Korean resident number",
        "Korean foreigner number",
        "Korean business number",
        "Chinese identity number",
        "Chinese social credit code",
        "Japanese individual number",
        "Saudi identity number",
        "Emirates id",
        "Aadhaar number",
        "PAN",
        "Turkish identity number",
        "Indonesian identity number",
        "Vietnamese identity number",
        "secret",
    ),
}

_TABLE: dict[str, dict[str, str]] = {
    language: {kind: f"<{name}>" for kind, name in zip(KINDS, names, strict=True)}
    for language, names in _NAMES.items()
}
LANGUAGES: tuple[str, ...] = tuple(_TABLE)
"""Languages with placeholders of their own; others get the English ones."""

HIDDEN = "<·>"
"""Stands for any placeholder while a text is searched again."""

ALL_PLACEHOLDERS = frozenset({HIDDEN, *(text for table in _TABLE.values() for text in table.values())})
LONGEST_PLACEHOLDER = max(map(len, ALL_PLACEHOLDERS))

_TRADITIONAL = re.compile(r"^zh-(?:hant|(?:[a-z]{4}-)?(?:tw|hk|mo))\b", re.IGNORECASE)


def placeholder(kind: str, language: str) -> str:
    """The placeholder of a kind in a language.

    Args:
        kind: one of `KINDS`.
        language: BCP-47 tag of the corpus; languages without words of their own get English.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in KINDS:
        raise ValueError(f"no placeholder for the kind {kind!r}; known kinds: {', '.join(KINDS)}")
    if _TRADITIONAL.match(language):
        return _TABLE["zh-Hant"][kind]
    return _TABLE.get(language.split("-", maxsplit=1)[0].lower(), _TABLE["en"])[kind]
