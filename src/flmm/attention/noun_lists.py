"""Nouns, in the singular, that name nothing in a picture which could be pointed at."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PHOTO_NOUNS = _words("image picture photo photograph")
"""The picture itself, or another one in it."""

PICTURE_NOUNS = PHOTO_NOUNS | _words(
    "photography screenshot scene view shot snapshot closeup depiction composition"
)
"""The picture itself."""

LOCATION_NOUNS = _words(
    "front back top bottom side left right middle center centre corner edge end rear "
    "outside inside midst vicinity"
)
"""Places after a preposition; before "of" and a thing, parts of it."""

PLACE_NOUNS = _words("foreground background midground middleground distance horizon air midair")
"""Always places."""

REGION_NOUNS = _words("area part section region portion half third quadrant")
REGION_WORDS = _words("upper lower left right top bottom central center centre middle hand")
"""With one of these words, those nouns are places in the picture."""

AMOUNT_NOUNS = _words(
    "lot number couple variety range majority minority total dozen hundred thousand plenty kind "
    "sort type amount quantity mix mixture combination abundance multitude array assortment "
    "rest half part portion bit touch hint handful third quarter shades tones"
)
"""Amounts, where "of" follows."""

ABSTRACT_NOUNS = _words(
    # impressions
    "atmosphere ambiance ambience mood feeling feel sense vibe impression emotion tranquility "
    "tranquillity calm calmness peace peacefulness serenity joy happiness sadness excitement "
    "warmth coziness charm beauty elegance nostalgia mystery energy drama dynamism relaxation "
    "comfort simplicity contrast depth harmony balance interest attention focus emphasis "
    "personality curiosity concentration determination surprise fun love freedom adventure "
    "safety privacy importance isolation solitude romance wonder care "
    # properties
    "color colour hue size shape style texture quality condition state position "
    "location pose posture expression angle perspective direction orientation arrangement "
    "layout placement height length width age gender material brand breed species "
    "purpose function role theme context setting resolution brightness lighting temperature "
    "visibility appearance presence absence lack "
    # times, weather
    "time day daytime night nighttime morning afternoon evening noon midday midnight dusk dawn "
    "season winter summer autumn week month hour minute moment today past future history "
    "century era period weather climate "
    # events and actions
    "construction motion movement speed action activity event progress use "
    "work conversation discussion interaction celebration competition performance practice "
    "training leisure breakfast lunch dinner travel transportation exercise play "
    # words about the answer, and what is left of idioms
    "description summary overview analysis breakdown explanation question answer information "
    "example fact reason idea way manner addition possibility opportunity attempt effort result "
    "effect impact influence relationship connection life nature culture tradition"
)
"""What is said of things, or of the answer."""

ACTION_WORDS = _words(
    "standing sitting lying walking running jumping playing pointing turning looking facing "
    "holding wearing carrying riding driving flying swimming eating drinking sleeping resting "
    "leaning hanging waiting talking reading working climbing pulling pushing throwing catching "
    "chasing moving floating grazing reaching smiling"
)
"""What things do; spaCy takes these for nouns after one, as in "a puppy playing with a ball"."""

HEADING_NOUNS = _words(
    "subject object item element thing detail feature component part section surrounding "
    "environment landscape note conclusion observation difference similarity region area zone "
    "side row header body footer sidebar attribute property characteristic category class label "
    "caption title count number amount type kind total text writing architecture clothing "
    "clothes attire apparel "
    "footwear wildlife furniture decor decoration vegetation equipment people persons "
    "individuals humans"
)
"""What a label, or a sentence before a colon, says of that which follows: its role or its class."""

CLASS_NOUNS = _words(
    "accessory outfit figure animal vehicle structure food drink beverage plant appliance "
    "instrument product person"
)
"""Classes of things: labels of several ("Vehicles: cars"), or names of one ("Vehicle: red")."""
