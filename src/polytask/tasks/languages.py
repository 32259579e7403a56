"""Languages by name or code: "German", "de", "deu", "Deutsch", "de-AT" and "deu_Latn" all mean the same one.

Codes are ISO 639-1, with the three-letter codes of ISO 639-2 and 639-3 that data sets such as FLORES use.
"""

from dataclasses import dataclass
from functools import cache, lru_cache

from polytask.errors import TaskError
from polytask.registry import nearest


@dataclass(frozen=True)
class Language:
    """`code` is ISO 639-1 ("de"), `name` the English name that prompts use ("German")."""

    code: str
    name: str


@lru_cache(maxsize=4096)
def language(text: str) -> Language:
    """The language of that name or code, regions and scripts aside. Raises TaskError with the nearest name."""
    table = _table()
    wanted = text.strip().casefold()
    whole = table.get(wanted.replace("_", " "))
    found = whole or table.get(wanted.replace("_", "-").split("-")[0])
    if found is None:
        raise TaskError(
            f"Unknown language '{text}': {nearest(text, _names(wanted))} Give a name or a code such as 'de'."
        )
    return found


def words_apart(code: str) -> bool:
    """Whether the language writes spaces between words, so that metrics over words apply."""
    return code not in {"zh", "ja", "th", "lo", "km", "my"}


def _names(wanted: str) -> list[str]:
    table = _table()
    return (
        [key for key in table if len(key) > 3] if len(wanted) > 3 else sorted({found.code for found in table.values()})
    )


@cache
def _table() -> dict[str, Language]:
    table = {}
    for line in LANGUAGES.strip().splitlines():
        code, codes, name, *own = line.split()
        found = Language(code, name)
        aliases = [code, *codes.split("|"), name, *(own[0].split("|") if own else [])]
        table |= {alias.replace("_", " ").casefold(): found for alias in aliases}
    return table


# code, three-letter codes, English name, other names; "_" stands for a space
LANGUAGES = """
af afr Afrikaans
am amh Amharic አማርኛ
ar ara|arb Arabic العربية
as asm Assamese অসমীয়া
az aze|azj Azerbaijani azərbaycanca
be bel Belarusian беларуская
bg bul Bulgarian български
bn ben Bengali বাংলা|Bangla
bs bos Bosnian bosanski
ca cat Catalan català
cs ces|cze Czech čeština
cy cym|wel Welsh Cymraeg
da dan Danish dansk
de deu|ger German Deutsch
el ell|gre Greek ελληνικά
en eng English
eo epo Esperanto
es spa Spanish español|castellano
et est|ekk Estonian eesti
eu eus|baq Basque euskara
fa fas|per|pes Persian فارسی|Farsi
fi fin Finnish suomi
fr fra|fre French français
ga gle Irish Gaeilge
gl glg Galician galego
gu guj Gujarati ગુજરાતી
ha hau Hausa
he heb Hebrew עברית
hi hin Hindi हिन्दी
hr hrv Croatian hrvatski
hu hun Hungarian magyar
hy hye|arm Armenian հայերեն
id ind Indonesian bahasa_Indonesia
ig ibo Igbo
is isl|ice Icelandic íslenska
it ita Italian italiano
ja jpn Japanese 日本語
jv jav Javanese
ka kat|geo Georgian ქართული
kk kaz Kazakh қазақша
km khm Khmer ខ្មែរ
kn kan Kannada ಕನ್ನಡ
ko kor Korean 한국어
ky kir Kyrgyz кыргызча
la lat Latin latina
lb ltz Luxembourgish Lëtzebuergesch
lo lao Lao ລາວ
lt lit Lithuanian lietuvių
lv lav|lvs Latvian latviešu
mg mlg Malagasy
mi mri|mao Maori
mk mkd|mac Macedonian македонски
ml mal Malayalam മലയാളം
mn mon|khk Mongolian монгол
mr mar Marathi मराठी
ms msa|may|zsm Malay bahasa_Melayu
mt mlt Maltese Malti
my mya|bur Burmese မြန်မာ
ne nep|npi Nepali नेपाली
nl nld|dut Dutch Nederlands|Flemish
no nor|nob Norwegian norsk|Bokmål|nb
oc oci Occitan
or ori|ory Odia ଓଡ଼ିଆ|Oriya
pa pan Punjabi ਪੰਜਾਬੀ
pl pol Polish polski
ps pus|pbt Pashto پښتو
pt por Portuguese português
qu que|quy Quechua
ro ron|rum Romanian română
ru rus Russian русский
rw kin Kinyarwanda
sd snd Sindhi سنڌي
si sin Sinhala සිංහල
sk slk|slo Slovak slovenčina
sl slv Slovenian slovenščina|Slovene
so som Somali
sq sqi|alb|als Albanian shqip
sr srp Serbian српски|srpski
su sun Sundanese
sv swe Swedish svenska
sw swa|swh Swahili Kiswahili
ta tam Tamil தமிழ்
te tel Telugu తెలుగు
tg tgk Tajik тоҷикӣ
th tha Thai ไทย
tk tuk Turkmen
tl tgl|fil Tagalog Filipino
tr tur Turkish Türkçe
tt tat Tatar
ug uig Uyghur
uk ukr Ukrainian українська
ur urd Urdu اردو
uz uzb|uzn Uzbek
vi vie Vietnamese Tiếng_Việt
xh xho Xhosa
yi yid Yiddish ייִדיש
yo yor Yoruba
zh zho|chi|cmn Chinese 中文|汉语|Mandarin
zu zul Zulu
"""
