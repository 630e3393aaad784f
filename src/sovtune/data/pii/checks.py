"""Check-digit and structure rules of the numbers that identify a person, an account or a business.

Every function takes the bare value (ASCII digits and capitals, no separators) and answers whether the rule
holds. The length and alphabet have been checked by the caller's pattern; a wrong length answers False.
"""

from __future__ import annotations

import calendar
import re
from itertools import cycle

FIRST_BIRTH_YEAR = 1900
LAST_BIRTH_YEAR = 2040
"""Years of birth taken for possible; a constant, not the clock, so that one text always gives one answer."""


def is_date(year: int, month: int, day: int) -> bool:
    """Whether this is a day of the Gregorian calendar."""
    return 1 <= month <= 12 and 1 <= day <= calendar.monthrange(year, month)[1]


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1 annex B: double every second digit from the right; the sum ends in 0."""
    total = 0
    for digit, double in zip(reversed(digits), cycle((False, True)), strict=False):
        value = int(digit) * 2 if double else int(digit)
        total += value - 9 if value > 9 else value
    return total % 10 == 0 and len(set(digits)) > 1


def _verhoeff_tables() -> tuple[list[list[int]], list[list[int]]]:
    """Multiplication in the dihedral group D5, and the powers of Verhoeff's permutation by position."""

    def product(left: int, right: int) -> int:
        if left < 5:
            return (left + right) % 5 if right < 5 else 5 + (left + right) % 5
        return 5 + (left - right) % 5 if right < 5 else (left - right) % 5

    multiply = [[product(left, right) for right in range(10)] for left in range(10)]
    permute = [list(range(10)), [1, 5, 7, 6, 2, 8, 3, 0, 9, 4]]
    while len(permute) < 8:
        permute.append([permute[1][digit] for digit in permute[-1]])
    return multiply, permute


_MULTIPLY, _PERMUTE = _verhoeff_tables()


def verhoeff(digits: str) -> bool:
    """Verhoeff's check over all digits, the check digit last (Aadhaar)."""
    state = 0
    for position, digit in enumerate(reversed(digits)):
        state = _MULTIPLY[state][_PERMUTE[position % 8][int(digit)]]
    return state == 0


IBAN_LENGTHS: dict[str, int] = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FK", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HN", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}
"""Country -> length of its IBAN (SWIFT IBAN registry)."""


def iban(value: str) -> bool:
    """ISO 13616: the country's length, and the rearranged number is 1 modulo 97."""
    if IBAN_LENGTHS.get(value[:2]) != len(value):
        return False
    return int("".join(str(int(letter, 36)) for letter in value[4:] + value[:4])) % 97 == 1


_CARD_PREFIXES: tuple[tuple[re.Pattern[str], range | tuple[int, ...]], ...] = (
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"4"), (13, 16, 19)),  # Visa
    (re.compile(r"30[0-5]|3[689]"), range(14, 20)),  # Diners
    (
        re.compile(r"35(?:2[89]|[3-8])|62|81|60|65|64[4-9]|508"),
        range(16, 20),
    ),  # JCB, UnionPay, Discover, RuPay
    (re.compile(r"220[0-5]|5018|50[23]|58|6304|6361|67"), range(16, 20)),  # Mir, Maestro, mada
    # National schemes: 9 and the ISO 3166 number of the country, e.g. 9704 Napas, 9792 Troy.
    (re.compile(r"9(?:156|356|360|392|410|682|704|784|792)"), (16, 19)),
)
"""Issuer prefix (ISO/IEC 7812 and the schemes' published ranges) -> lengths of the card number."""


def payment_card(digits: str) -> bool:
    """Luhn, and an issuer prefix that goes with the length."""
    known = any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in _CARD_PREFIXES)
    return known and luhn(digits)


def kr_birth(digits: str) -> bool:
    """YYMMDD and the century/gender digit [1-8] of a Korean resident or foreigner registration number."""
    century = {"1": 1900, "2": 1900, "5": 1900, "6": 1900, "3": 2000, "4": 2000, "7": 2000, "8": 2000}
    if len(digits) != 13 or digits[6] not in century:
        return False
    return is_date(century[digits[6]] + int(digits[:2]), int(digits[2:4]), int(digits[4:6]))


def kr_check_digit(digits: str) -> bool:
    """The check digit of numbers given before October 2020; later ones end in random digits."""
    total = sum(int(d) * w for d, w in zip(digits[:12], (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5), strict=True))
    base = 13 if digits[6] in "5678" else 11
    return (base - total % 11) % 10 == int(digits[12])


def kr_brn(digits: str) -> bool:
    """Korean business registration number: ten digits, weighted sum with the carry of the ninth digit."""
    if len(digits) != 10 or digits[:3] < "101" or digits[3:5] == "00":
        return False
    total = sum(int(d) * w for d, w in zip(digits[:9], (1, 3, 7, 1, 3, 7, 1, 3, 5), strict=True))
    return (10 - (total + int(digits[8]) * 5 // 10) % 10) % 10 == int(digits[9])


_CN_PROVINCE = re.compile(r"1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3]")
"""First two digits of a GB/T 2260 division code; 81-83 are residence permits of Hong Kong, Macao, Taiwan."""


def cn_rid(value: str) -> bool:
    """GB 11643 resident identity number: province, date of birth, ISO 7064 MOD 11-2 check character."""
    if len(value) != 18 or not _CN_PROVINCE.match(value):
        return False
    year = int(value[6:10])
    if not (FIRST_BIRTH_YEAR <= year <= LAST_BIRTH_YEAR) or not is_date(
        year, int(value[10:12]), int(value[12:14])
    ):
        return False
    state = 0
    for digit in value[:17]:
        state = (state + int(digit)) * 2 % 11
    return "0123456789X"[(12 - state) % 11] == value[17]


_USCC_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_HEAD = re.compile(
    # Registering authority and class of the organisation, then the province.
    r"(?:1[1239]|2[19]|3[1-59]|4[19]|5[1-59]|6[129]|7[129]|8[19]|9[123]|A[19]|N[1239]|Y1)"
    rf"(?:10|{_CN_PROVINCE.pattern})"  # 10: registered with the state itself
)


def cn_uscc(value: str) -> bool:
    """GB 32100 unified social credit code: registration class, province, check character modulo 31."""
    if (
        len(value) != 18
        or not _USCC_HEAD.match(value)
        or any(letter not in _USCC_ALPHABET for letter in value)
    ):
        return False
    total = sum(_USCC_ALPHABET.index(letter) * pow(3, place, 31) for place, letter in enumerate(value[:17]))
    return _USCC_ALPHABET[-total % 31] == value[17]


def jp_my_number(digits: str) -> bool:
    """Individual Number: 11 digits and a check digit modulo 11 (weights 2-7 then 2-6 from the right)."""
    if len(digits) != 12 or len(set(digits)) == 1:
        return False
    rest = (
        sum(int(d) * w for d, w in zip(digits[10::-1], (2, 3, 4, 5, 6, 7, 2, 3, 4, 5, 6), strict=True)) % 11
    )
    return int(digits[11]) == (0 if rest <= 1 else 11 - rest)


def sa_id(digits: str) -> bool:
    """Saudi national id (1...) or residence permit (2...): ten digits, Luhn."""
    return len(digits) == 10 and digits[0] in "12" and luhn(digits)


def ae_id(digits: str) -> bool:
    """Emirates id: 784, year of birth, seven digits, Luhn check digit."""
    in_range = len(digits) == 15 and FIRST_BIRTH_YEAR <= int(digits[3:7]) <= LAST_BIRTH_YEAR
    return in_range and digits.startswith("784") and luhn(digits)


def in_aadhaar(digits: str) -> bool:
    """Aadhaar: twelve digits, the first 2-9, Verhoeff check, not a palindrome (UIDAI never gives those)."""
    return len(digits) == 12 and digits[0] > "1" and digits != digits[::-1] and verhoeff(digits)


def in_pan(value: str) -> bool:
    """Indian PAN: five letters of which the fourth names the kind of holder, four digits, a letter."""
    return len(value) == 10 and value[3] in "ABCEFGHJLPT" and value[5:9] != "0000"


def tr_tckn(digits: str) -> bool:
    """Turkish identity number: eleven digits, two check digits."""
    if len(digits) != 11 or digits[0] == "0":
        return False
    value = [int(digit) for digit in digits]
    tenth = (sum(value[0:9:2]) * 7 - sum(value[1:8:2])) % 10
    return value[9] == tenth and value[10] == sum(value[:10]) % 10


_ID_PROVINCE = re.compile(r"1[1-9]|21|3[1-6]|5[1-3]|6[1-5]|7[1-6]|8[12]|9[1-7]")


def id_nik(digits: str) -> bool:
    """Indonesian NIK: province, regency, district, DDMMYY (day + 40 for women), serial."""
    if len(digits) != 16 or not _ID_PROVINCE.match(digits) or "00" in (digits[2:4], digits[4:6]):
        return False
    day, month, year = int(digits[6:8]), int(digits[8:10]), int(digits[10:12])
    # 2000 + YY is a leap year where 1900 + YY is one, and for 00 too, so that no real birthday is lost.
    return digits[12:] != "0000" and is_date(2000 + year, month, day - 40 if day > 40 else day)


_VN_PROVINCE = re.compile(
    r"0(?:0[12468]|1[0124579]|2[024567]|3[013-8]|4[0245689]|5[12468]|6[024678]|7[024579]|8[0234679]|9[1-6])"
)


def vn_cccd(digits: str) -> bool:
    """Vietnamese CCCD: province of birth registration, century and gender digit 0-3, year, serial."""
    if len(digits) != 12 or not _VN_PROVINCE.match(digits) or digits[3] not in "0123":
        return False
    year = (1900 if digits[3] in "01" else 2000) + int(digits[4:6])
    return year <= LAST_BIRTH_YEAR and digits[6:] != "000000"
