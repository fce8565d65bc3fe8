"""A small English grammar and its minimal pairs.

A paradigm makes a grammatical clause and a twin that breaks one rule by changing one word (for
`npi_scope`: by exchanging two). The word that decides never stands next to the word it depends on,
and what stands in between is drawn from both sides of the contrast, so neighbouring words do not
help. Most clauses are set beside a second one with dependencies of its own, so counting from the
start of the sentence does not help either. The grammar and the word lists are our own; nothing is
taken from a data set.
"""

from collections.abc import Callable
from random import Random

Pair = tuple[str, str]


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# (singular, plural); the gendered nouns are apart because some rules need them
MEN = tuple((word, word + "s") for word in _words("king uncle boy monk wizard groom"))
WOMEN = tuple((word, word + "s") for word in _words("queen aunt girl nun mother bride"))
OTHERS = tuple(
    (word, word + "s") for word in _words("doctor farmer baker sailor painter lawyer singer clerk")
)
PEOPLE = MEN + WOMEN + OTHERS
OBJECTS = tuple(
    (word, word + "s")
    for word in _words("lamp table letter boat ladder carpet basket mirror candle drum kite wagon")
)
ADJECTIVES = _words("old young tall small quiet clever famous happy")
HUES = _words("red blue green heavy dusty broken shiny wooden")
PREPOSITIONS = _words("near behind beside with")

# base, third person, past, participle, gerund
SEE = tuple(
    (base, base + "s", base + "ed", base + "ed", base + "ing")
    for base in _words("help follow visit greet mock warn")
)
ACT = (
    ("sing", "sings", "sang", "sung", "singing"),
    ("fall", "falls", "fell", "fallen", "falling"),
    ("sink", "sinks", "sank", "sunk", "sinking"),
    ("swim", "swims", "swam", "swum", "swimming"),
    ("speak", "speaks", "spoke", "spoken", "speaking"),
    ("wake", "wakes", "woke", "woken", "waking"),
)
# verbs that cannot do without an object: base, past
HANDLE = (("carry", "carried"), ("repair", "repaired"), ("buy", "bought"), ("hide", "hid"))
PARTICLES = {"picked": "up", "threw": "away", "turned": "off", "put": "down", "brought": "back"}
LINKS = {"either": "or", "neither": "nor", "both": "and"}


def subject_verb_prepositional(rng: Random) -> Pair:
    """Agree across one or two prepositional phrases."""
    number = rng.randrange(2)
    subject = _noun_phrase(rng, PEOPLE, number)
    for _ in range(rng.choice((1, 1, 2))):
        subject += f" {_prepositional(rng)}"
    base, third, *_ = rng.choice(ACT)
    tail = rng.choice(("", " often", " every day"))
    return _swap(f"{subject} {{}}{tail}", *_by_number(number, third, base))


def subject_verb_relative(rng: Random) -> Pair:
    """Agree across a relative clause whose own subject and verb may differ in number."""
    number = rng.randrange(2)
    subject = f"{_noun_phrase(rng, PEOPLE, number)} {_relative(rng, number)}"
    base, third, *_ = rng.choice(ACT)
    return _swap(f"{subject} {{}} {rng.choice(('often', 'now'))}", *_by_number(number, third, base))


def question_agreement(rng: Random) -> Pair:
    """Agree with an auxiliary that was moved before an adjective and its noun."""
    number = rng.randrange(2)
    noun = rng.choice(PEOPLE)
    frame = f"{('does', 'do')[number]} the {rng.choice(ADJECTIVES)} {{}} {_prepositional(rng)} "
    verb = rng.choice(ACT)[0]
    return _swap(f"{frame}{verb}", noun[number], noun[1 - number])


def determiner_noun(rng: Random) -> Pair:
    """Agree with a determiner across one or two adjectives."""
    number = rng.randrange(2)
    determiner = rng.choice((("this", "one", "a"), ("these", "two", "many"))[number])
    hues = " ".join(rng.sample(HUES, rng.choice((1, 2))))
    past = rng.choice(HANDLE)[1]
    noun = rng.choice(OBJECTS)
    who = _noun_phrase(rng, PEOPLE, rng.randrange(2))
    tail = rng.choice(("", f" {_prepositional(rng)}"))
    return _swap(f"{who} {past} {determiner} {hues} {{}}{tail}", noun[number], noun[1 - number])


def reflexive_number(rng: Random) -> Pair:
    """Agree in number with the subject of the same clause, not with one nearby."""
    number = rng.randrange(2)
    nouns, alone = rng.choice(((MEN, "himself"), (WOMEN, "herself")))
    subject = _noun_phrase(rng, nouns, number)
    verb = rng.choice(SEE)[2]
    modifier = rng.choice((_prepositional(rng), _relative(rng, number)))
    return _swap(f"{subject} {modifier} {verb} {{}}", *_by_number(number, alone, "themselves"))


def reflexive_gender(rng: Random) -> Pair:
    """Agree in gender with the subject of the same clause."""
    words = ["himself", "herself"]
    gender = rng.randrange(2)
    subject = _noun_phrase(rng, (MEN, WOMEN)[gender], 0)
    modifier = rng.choice((_prepositional(rng), _relative(rng, 0)))
    verb = rng.choice(SEE)[2]
    return _swap(f"{subject} {modifier} {verb} {{}}", words[gender], words[1 - gender])


def npi_scope(rng: Random) -> Pair:
    """Allow "ever" only where the main subject, not one inside the relative clause, is negated."""
    number = rng.randrange(2)
    head, inner = rng.choice(PEOPLE)[number], rng.choice(PEOPLE)[rng.randrange(2)]
    past = rng.choice(SEE)[2]
    have = ("has", "have")[number]
    frame = f"{{}} {head} that {{}} {inner} {past} {have} ever {rng.choice(ACT)[3]}"
    return frame.format("no", "the"), frame.format("the", "no")


def npi_free(rng: Random) -> str:
    """The sentence that `npi_scope` must be told from: the same words without "ever"."""
    good, bad = npi_scope(rng)
    return rng.choice((good, bad)).replace(" ever ", rng.choice((" often ", " ")))


def wh_gap(rng: Random) -> Pair:
    """Leave out the object after "what", and only then."""
    number = rng.randrange(2)
    knower = _noun_phrase(rng, PEOPLE, rng.randrange(2))
    who = f"{_noun_phrase(rng, PEOPLE, number)}{rng.choice(('', f' {_prepositional(rng)}'))}"
    past = rng.choice(HANDLE)[1]
    if rng.random() < 0.5:
        return _swap(f"{knower} knew {{}} {who} {past} today", "what", "that")
    thing = f"the {rng.choice(HUES)} {rng.choice(OBJECTS)[rng.randrange(2)]}"
    return _swap(f"{knower} knew {{}} {who} {past} {thing} today", "that", "what")


def auxiliary_form(rng: Random) -> Pair:
    """Choose participle or gerund by an auxiliary that stands some adverbs before."""
    number = rng.randrange(2)
    perfect = rng.random() < 0.5
    auxiliary = (("is", "are"), ("has", "have"))[perfect][number]
    adverbs = " ".join(rng.sample(("often", "quietly", "really", "always", "rarely"), 2))
    verb = rng.choice(ACT)
    forms = (verb[3], verb[4]) if perfect else (verb[4], verb[3])
    return _swap(f"{_noun_phrase(rng, PEOPLE, number)} {auxiliary} {adverbs} {{}}", *forms)


def tense_adverb(rng: Random) -> Pair:
    """Choose the tense that the opening adverb asks for."""
    who = f"{_noun_phrase(rng, PEOPLE, rng.randrange(2))} {_prepositional(rng)}"
    base, past = rng.choice(HANDLE)
    thing = f"the {rng.choice(HUES)} {rng.choice(OBJECTS)[rng.randrange(2)]}"
    adverbs = ["yesterday", "tomorrow"]
    if rng.random() < 0.5:
        return _swap(f"{{}} {who} {past} {thing}", *adverbs)
    return _swap(f"{{}} {who} will {base} {thing}", *reversed(adverbs))


def verb_particle(rng: Random) -> Pair:
    """Finish a verb with its own particle, after the object."""
    verb, particle = rng.choice(sorted(PARTICLES.items()))
    wrong = rng.choice([word for word in sorted(PARTICLES.values()) if word != particle])
    who = _noun_phrase(rng, PEOPLE, rng.randrange(2))
    hues = " ".join(rng.sample(HUES, rng.choice((1, 2))))
    thing = f"the {hues} {rng.choice(OBJECTS)[rng.randrange(2)]}"
    return _swap(f"{who} {verb} {thing} {{}}", particle, wrong)


def correlative(rng: Random) -> Pair:
    """Close "either", "neither" and "both" with their own conjunction."""
    opener, link = rng.choice(sorted(LINKS.items()))
    wrong = rng.choice([word for word in sorted(LINKS.values()) if word != link])
    first = f"{_noun_phrase(rng, PEOPLE, rng.randrange(2))} {_prepositional(rng)}"
    second = _noun_phrase(rng, PEOPLE, rng.randrange(2))
    return _swap(f"{opener} {first} {{}} {second} {rng.choice(SEE)[2]} us", link, wrong)


RULES: dict[str, Callable[[Random], Pair]] = {
    rule.__name__: rule
    for rule in (
        subject_verb_prepositional,
        subject_verb_relative,
        question_agreement,
        determiner_noun,
        reflexive_number,
        reflexive_gender,
        npi_scope,
        wh_gap,
        auxiliary_form,
        tense_adverb,
        verb_particle,
        correlative,
    )
}


PARADIGMS = tuple(RULES)


def pair(rng: Random, paradigm: str) -> Pair:
    """Make a grammatical sentence and its twin that breaks the paradigm's rule."""
    good, bad = RULES[paradigm](rng)
    frame = _frame(rng, good)
    return frame.format(good), frame.format(bad)


def sentence(rng: Random) -> str:
    """Make one grammatical sentence: the good half of some pair, or a foil of `npi_scope`."""
    clause = _clause(rng, list(RULES.values()))
    return _frame(rng, clause).format(clause)


def _frame(rng: Random, clause: str) -> str:
    """Choose the company of a clause and the mark that ends the sentence."""
    is_question = clause.startswith(("do ", "does "))
    mark = "?" if is_question else "."
    rules = [rule for rule in RULES.values() if rule is not question_agreement]
    form = rng.random()
    if form < 0.25:
        return f"{{}}{mark}"
    if form < 0.5 and not is_question:
        speaker = _noun_phrase(rng, PEOPLE, rng.randrange(2))
        return f"{speaker}{rng.choice(('', f' {_prepositional(rng)}'))} said that {{}}."
    if form < 0.8:
        return f"{rng.choice(('because', 'when'))} {_clause(rng, rules)}, {{}}{mark}"
    return f"{{}}, {rng.choice(('but', 'while'))} {_clause(rng, rules)}{mark}"


def _clause(rng: Random, rules: list[Callable[[Random], Pair]]) -> str:
    rule = rng.choice((*rules, npi_free))
    made = rule(rng)
    return made if isinstance(made, str) else made[0]


def _noun_phrase(rng: Random, nouns: tuple[Pair, ...], number: int) -> str:
    adjective = rng.choice(("", "", f"{rng.choice(ADJECTIVES)} "))
    return f"the {adjective}{rng.choice(nouns)[number]}"


def _prepositional(rng: Random) -> str:
    noun = _noun_phrase(rng, rng.choice((PEOPLE, OBJECTS)), rng.randrange(2))
    return f"{rng.choice(PREPOSITIONS)} {noun}"


def _relative(rng: Random, number: int) -> str:
    """Modify a noun of this number: it is the subject of the clause, or its object."""
    base, third, *_ = rng.choice(SEE)
    inner = rng.randrange(2)
    other = _noun_phrase(rng, PEOPLE, inner)
    if rng.random() < 0.5:
        other += f" {_prepositional(rng)}"
    if rng.random() < 0.5:
        return f"that {(third, base)[number]} {other}"
    return f"that {other} {(third, base)[inner]}"


def _by_number(number: int, singular: str, plural: str) -> Pair:
    return (plural, singular) if number else (singular, plural)


def _swap(frame: str, good: str, bad: str) -> Pair:
    return frame.format(good), frame.format(bad)
