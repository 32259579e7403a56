"""Noun phrases in English, German, French and Spanish: tables of words and the rules that make them agree.

A phrase has a form: "subject" (a small red circle; nominative), "seen" (the same as an object of a verb; accusative in
German), "the" (the red circle), "dative" (German "dem roten Kreis"; elsewhere as "the") and "of" (German "vom roten
Kreis", French "du cercle rouge", Spanish "del círculo rojo": with the contraction or elision that the noun asks for).
"""

from functools import cache

LANGUAGES = ("en", "de", "fr", "es")
FORMS = ("subject", "seen", "the", "dative", "of")

# shape: (singular, plural, gender)
NOUNS = {
    "en": {
        "circle": ("circle", "circles", "n"),
        "square": ("square", "squares", "n"),
        "triangle": ("triangle", "triangles", "n"),
        "star": ("star", "stars", "n"),
        "diamond": ("diamond", "diamonds", "n"),
        "cross": ("cross", "crosses", "n"),
        "shape": ("shape", "shapes", "n"),
    },
    "de": {
        "circle": ("Kreis", "Kreise", "m"),
        "square": ("Quadrat", "Quadrate", "n"),
        "triangle": ("Dreieck", "Dreiecke", "n"),
        "star": ("Stern", "Sterne", "m"),
        "diamond": ("Raute", "Rauten", "f"),
        "cross": ("Kreuz", "Kreuze", "n"),
        "shape": ("Form", "Formen", "f"),
    },
    "fr": {
        "circle": ("cercle", "cercles", "m"),
        "square": ("carré", "carrés", "m"),
        "triangle": ("triangle", "triangles", "m"),
        "star": ("étoile", "étoiles", "f"),
        "diamond": ("losange", "losanges", "m"),
        "cross": ("croix", "croix", "f"),
        "shape": ("forme", "formes", "f"),
    },
    "es": {
        "circle": ("círculo", "círculos", "m"),
        "square": ("cuadrado", "cuadrados", "m"),
        "triangle": ("triángulo", "triángulos", "m"),
        "star": ("estrella", "estrellas", "f"),
        "diamond": ("rombo", "rombos", "m"),
        "cross": ("cruz", "cruces", "f"),
        "shape": ("forma", "formas", "f"),
    },
}
# German: the stem, to which endings are added. French and Spanish: masculine, feminine and their plurals.
ADJECTIVES = {
    "de": {
        "red": "rot",
        "blue": "blau",
        "green": "grün",
        "yellow": "gelb",
        "black": "schwarz",
        "white": "weiß",
        "purple": "violett",
        "brown": "braun",
        "small": "klein",
        "large": "groß",
    },
    "fr": {
        "red": ("rouge", "rouge", "rouges", "rouges"),
        "blue": ("bleu", "bleue", "bleus", "bleues"),
        "green": ("vert", "verte", "verts", "vertes"),
        "yellow": ("jaune", "jaune", "jaunes", "jaunes"),
        "black": ("noir", "noire", "noirs", "noires"),
        "white": ("blanc", "blanche", "blancs", "blanches"),
        "purple": ("violet", "violette", "violets", "violettes"),
        "brown": ("marron", "marron", "marron", "marron"),
        "small": ("petit", "petite", "petits", "petites"),
        "large": ("grand", "grande", "grands", "grandes"),
    },
    "es": {
        "red": ("rojo", "roja", "rojos", "rojas"),
        "blue": ("azul", "azul", "azules", "azules"),
        "green": ("verde", "verde", "verdes", "verdes"),
        "yellow": ("amarillo", "amarilla", "amarillos", "amarillas"),
        "black": ("negro", "negra", "negros", "negras"),
        "white": ("blanco", "blanca", "blancos", "blancas"),
        "purple": ("morado", "morada", "morados", "moradas"),
        "brown": ("marrón", "marrón", "marrones", "marrones"),
        "small": ("pequeño", "pequeña", "pequeños", "pequeñas"),
        "large": ("grande", "grande", "grandes", "grandes"),
    },
}
# form -> gender -> (article, ending of the adjectives)
GERMAN = {
    "subject": {"m": ("ein", "er"), "n": ("ein", "es"), "f": ("eine", "e")},
    "seen": {"m": ("einen", "en"), "n": ("ein", "es"), "f": ("eine", "e")},
    "the": {"m": ("der", "e"), "n": ("das", "e"), "f": ("die", "e")},
    "dative": {"m": ("dem", "en"), "n": ("dem", "en"), "f": ("der", "en")},
    "of": {"m": ("vom", "en"), "n": ("vom", "en"), "f": ("von der", "en")},
}
ARTICLES = {
    "fr": {
        "subject": {"m": "un", "f": "une"},
        "the": {"m": "le", "f": "la", "elided": "l'"},
        "of": {"m": "du", "f": "de la", "elided": "de l'"},
    },
    "es": {
        "subject": {"m": "un", "f": "una"},
        "the": {"m": "el", "f": "la"},
        "of": {"m": "del", "f": "de la"},
    },
}
ENGLISH = {"subject": "a", "seen": "a", "the": "the", "dative": "the", "of": "of the"}
VOWELS = tuple("aeiouyéèêâîôû")


@cache
def phrase(lang: str, form: str, size: str, colour: str, shape: str) -> str:
    """A noun phrase of that form; an empty `size` or `colour` is left out."""
    noun, _, gender = NOUNS[lang][shape]
    given = [word for word in (size, colour) if word]
    if lang == "en":
        return " ".join([ENGLISH[form], *given, noun])
    if lang == "de":
        article, ending = GERMAN[form][gender]
        return " ".join([article, *(ADJECTIVES["de"][word] + ending for word in given), noun])
    forms = {word: ADJECTIVES[lang][word][gender == "f"] for word in given}
    form = {"seen": "subject", "dative": "the"}.get(form, form)
    articles = ARTICLES[lang][form]
    words = _order(lang, forms, size, colour, noun)
    if "elided" in articles and words.startswith(VOWELS):
        return articles["elided"] + words
    return f"{articles[gender]} {words}"


@cache
def plural(lang: str, size: str, colour: str, shape: str) -> str:
    """The phrase in the plural, as it stands behind a number: "rote Kreise", "cercles rouges"."""
    _, noun, gender = NOUNS[lang][shape]
    given = [word for word in (size, colour) if word]
    if lang == "en":
        return " ".join([*given, noun])
    if lang == "de":
        return " ".join([*(ADJECTIVES["de"][word] + "e" for word in given), noun])
    return _order(lang, {word: ADJECTIVES[lang][word][2 + (gender == "f")] for word in given}, size, colour, noun)


def _order(lang: str, forms: dict[str, str], size: str, colour: str, noun: str) -> str:
    """French puts the size before the noun, Spanish puts it last; colours follow the noun in both."""
    order = (forms.get(size), noun, forms.get(colour)) if lang == "fr" else (noun, forms.get(colour), forms.get(size))
    return " ".join(word for word in order if word)
