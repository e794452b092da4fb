"""Pools of values for generated contacts: typical values and edge cases."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import product

FIRST_NAMES = (
    *("Ada", "Alan", "Amina", "Anders", "Bela", "Björn", "Carla", "Chloé", "Dmitri", "Elif"),
    *("Emeka", "Fatima", "Grace", "Hana", "Ivo", "Jean-Luc", "José", "Katarzyna", "Lars"),
    *("Linus", "Maria", "Mei", "Noor", "Olga", "Paolo", "Quinn", "Rosa", "Søren", "Tove"),
)
LAST_NAMES = (
    *("Andersson", "Bianchi", "Chen", "Dubois", "Eriksen", "Fernández", "García", "Haddad"),
    *("Ibrahim", "Jansen", "Kowalski", "Larsen", "Müller", "Nakamura", "O'Brien", "Okafor"),
    *("Petrov", "Quist", "Rossi", "Smith", "Tanaka", "Usman", "Virtanen", "Weiß", "Yücel"),
)
DOMAINS = ("example.com", "example.org", "example.net", "mail.example.com", "news.example.org")
PLACES = (
    ("Aarhus", "Midtjylland", "8000", "Denmark"),
    ("Boston", "MA", "02108", "United States"),
    ("Kraków", "Małopolskie", "30-001", "Poland"),
    ("Lagos", "Lagos", "100001", "Nigeria"),
    ("Leeds", "West Yorkshire", "LS1 1BA", "United Kingdom"),
    ("München", "Bayern", "80331", "Germany"),
    ("Osaka", "Osaka", "530-0001", "Japan"),
    ("São Paulo", "SP", "01000-000", "Brazil"),
)
STREETS = ("Main Street", "Station Road", "Rue de la Paix", "Hauptstraße", "Strandvejen")
WORDS = tuple(
    " ".join(words)
    for words in product(("blue", "early", "gold", "new", "public"), ("circle", "team", "trial"))
)
DATES = tuple(
    datetime(1950, 1, 1, tzinfo=timezone.utc) + timedelta(days=7 * week) for week in range(4096)
)

LONG_TEXT = 'A long note, with "quotes" and a break\n' * 2560  # 100 KB
EDGE_CASE_TEXTS = (
    *("two\nlines", "two\r\nlines", "two\rlines", "\n", "ends in a break\n", "\r\n\r\n"),
    *('say "hi"', 'ends in a quote"', '"', '""', '"quoted"', "''", "'"),
    *("a,b", ",", "a;b;c", "tab\there", "pipe|pipe", '",\n"', '\\"', "\\", "\\n", "C:\\new\\"),
    *("line\u2028separator", "paragraph\u2029separator", "next\u0085line", "form\x0cfeed\x0b\x1c"),
    *("nul\x00inside", "\x00", "lone \ud800 high", "lone \udc00 low", "\ud800"),
    *("😀 smile", "\U0001f469\u200d\U0001f467 family", "\U0001d518\U0001d52b", "שלום", "مرحبا"),
    *("\u202ereversed\u202c", "\ue000", "\U0010ffff"),
    *("e\u0301 combined", "é composed", "İstanbul ß", "\ufeffmark", "\ufffd", "\u200b", "\x7f"),
    *(" leading", "trailing ", "   ", "\t", "\u00a0no break", "007", "+49", "0x1F", "00", "1e5"),
    *("NA", "N/A", "null", "NULL", "None", "nan", "NaN", "inf", "-", "true", "FALSE", "\\N"),
    *("<b>&amp;</b>", "<>&", "=1+1", "@cmd", "#", "{}", "[]", '{"a": 1}', "%s %d", "${HOME}"),
    *("2021-02-03T19:26:52Z", "02/03/2021", "3,14", "1 000", "_", "$ref", "../../etc/passwd"),
)
EDGE_CASE_NUMBERS: tuple[int | float, ...] = (
    *(0, -1, 1, 2**31, -(2**31) - 1, 2**53, 2**53 + 1, -(2**53) - 1, 2**63, 2**64, 2**64 + 1),
    *(10**20 + 1, -(10**30) - 7, 0.5, -0.5, 0.1, 3.141592653589793, -1234567.89, 1e5, 1e16),
    *(1e-7, 1.5e300, 19.99, 0.30000000000000004),
)
EDGE_CASE_DATES = tuple(
    datetime(year, month, day, tzinfo=timezone.utc)
    for year, month, day in (
        *((1, 1, 1), (987, 6, 5), (1582, 10, 15), (1899, 12, 31), (1900, 1, 1), (1969, 12, 31)),
        *((1970, 1, 1), (2000, 2, 29), (2038, 1, 20), (2262, 4, 12), (9999, 12, 31)),
    )
)
