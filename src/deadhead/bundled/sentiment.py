"""Synthetic sentences whose sentiment cannot be read off their words.

Every sentence is built for a label: the opinion that the *speaker* holds of the *thing reviewed*.
Words of the other polarity are around (negated, out of scope, held by somebody else, about another
thing, only wondered about, or in the clause that loses a contrast), so counting words does not
help. The grammar and the word lists are our own; nothing is taken from a data set.
"""

from random import Random


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


LABELS = ("negative", "neutral", "positive")

THINGS = _words(
    "soup wine bread cake salad coffee lamp chair sofa tent phone radio camera novel film song "
    "play poem hotel room pool garden museum train ferry taxi concert market"
)
ADJECTIVES = {
    -1: _words(
        "awful bland boring broken clumsy dreadful dull filthy flimsy grim noisy poor rude "
        "shabby sloppy stale terrible tedious ugly weak"
    ),
    0: _words(
        "annual blue foreign green large local modern narrow new old plain red rural short small "
        "square tall urban wide wooden"
    ),
    1: _words(
        "brilliant charming clever cosy delightful elegant excellent fine fresh friendly gorgeous "
        "great lovely neat perfect pleasant smart splendid superb tidy"
    ),
}
PEOPLE = _words(
    "brother sister uncle aunt cousin neighbour teacher boss dentist friend guide landlord"
)
PLACES = _words("door station bridge river harbour corner church square")


def example(rng: Random) -> tuple[str, int]:
    """Make one sentence and its label, an index into `LABELS`."""
    value = rng.choice((-1, 0, 1))
    sentence = rng.choice(CONSTRUCTIONS)(rng, value)
    return sentence + ".", value + 1


def single(rng: Random, value: int) -> str:
    """Say one thing about one thing; whatever hangs on the subject is beside the point."""
    return _stance(rng, _subject(rng, rng.choice(THINGS)), value)


def contrast(rng: Random, value: int) -> str:
    """Weigh two clauses: the stressed one wins, unless it holds no opinion of the speaker."""
    subject = f"the {rng.choice(THINGS)}"
    if value and rng.random() < 0.35:
        strong, weak = 0, value
    else:
        strong, weak = value, rng.choice((-1, 0, 1)) if value else 0
    form = rng.choice(("but", "still", "although", "while", "after"))
    if form == "but":
        return f"{_stance(rng, subject, weak)}, but {_stance(rng, 'it', strong)}"
    if form == "still":
        return f"{_stance(rng, subject, weak)}; still, {_stance(rng, 'it', strong)}"
    if form == "after":
        return f"{_stance(rng, subject, strong)}, although {_stance(rng, 'it', weak)}"
    return f"{form} {_stance(rng, subject, weak)}, {_stance(rng, 'it', strong)}"


def aside(rng: Random, value: int) -> str:
    """Judge one thing and, in passing, another one."""
    thing, other = rng.sample(THINGS, 2)
    remark = f"unlike the {other}, which was {_predicate(rng, rng.choice((-1, 0, 1)))}"
    main = _plain(rng, f"the {thing}", value)
    return rng.choice((f"{remark}, {main}", f"{main}, {remark}"))


def echo(rng: Random, value: int) -> str:
    """Report an opinion, then say who shares it."""
    subject = _subject(rng, rng.choice(THINGS))
    who, other = (f"my {person}" for person in rng.sample(PEOPLE, 2))
    if value == 0:
        reported = rng.choice((-1, 0, 1))
        verdict = rng.choice((f"and {other} agrees", f"but {other} disagrees"))
        if reported == 0:
            verdict = rng.choice((verdict, "and i agree", "but i disagree"))
    else:
        reported, verdict = rng.choice(((value, "and i agree"), (-value, "but i disagree")))
    return f"{_report(rng, who, subject, reported)}, {verdict}"


def side(rng: Random, value: int) -> str:
    """Report two opinions and take one side by its order of mention."""
    subject = f"the {rng.choice(THINGS)}"
    people = rng.sample(PEOPLE, 2)
    chosen = rng.randrange(2)
    values = [rng.choice((-1, 0, 1)) for _ in people]
    values[chosen] = value
    first = _report(rng, f"my {people[0]}", subject, values[0])
    second = _report(rng, f"my {people[1]}", "it", values[1])
    return f"{first} and {second}; i side with the {('former', 'latter')[chosen]}"


def change(rng: Random, value: int) -> str:
    """Compare then and now: now counts."""
    subject = f"the {rng.choice(THINGS)}"
    past = rng.choice((-1, 0, 1))
    now = f"now {{}} is {_predicate(rng, value)}"
    then = rng.choice((f"{{}} used to be {_word(rng, past)}", f"once {{}} was {_word(rng, past)}"))
    clauses = [now, then]
    rng.shuffle(clauses)
    return f"{clauses[0].format(subject)}; {clauses[1].format('it')}"


CONSTRUCTIONS = (single, contrast, contrast, aside, echo, side, side, change)


def _stance(rng: Random, subject: str, value: int) -> str:
    """Say what the speaker holds of the subject, directly or by denying the opposite."""
    if value == 0 and rng.random() < 0.7:
        return _not_mine(rng, subject)
    form = rng.random()
    if form < 0.55:
        return _plain(rng, subject, value)
    if form < 0.7:
        denial = rng.choice(("i doubt that", "it is not true that", "i do not think that"))
        return f"{denial} {_plain(rng, subject, -value)}"
    if form < 0.85:
        caller = rng.choice(("nobody could call", "i would not call", "i would never call"))
        return f"{caller} {subject} {_word(rng, -value)}"
    return f"{rng.choice(('i would call', 'you could call'))} {subject} {_word(rng, value)}"


def _not_mine(rng: Random, subject: str) -> str:
    """Mention an opinion that the speaker does not hold."""
    any_value = rng.choice((-1, 1))
    if rng.random() < 0.6:
        return _report(rng, f"my {rng.choice(PEOPLE)}", subject, any_value)
    opener = rng.choice(("i wonder whether", "nobody asked whether", "i cannot say whether"))
    return f"{opener} {_plain(rng, subject, any_value)}"


def _report(rng: Random, who: str, subject: str, value: int) -> str:
    """Put an opinion into the mouth of somebody else."""
    form = rng.random()
    if form < 0.4:
        return f"{who} {rng.choice(('says', 'thinks'))} that {_plain(rng, subject, value)}"
    if form < 0.7:
        return f"{who} called {subject} {_word(rng, value)}"
    return f"{who} {rng.choice(('doubts', 'denies'))} that {_plain(rng, subject, -value)}"


def _plain(rng: Random, subject: str, value: int) -> str:
    return f"{subject} was {_predicate(rng, value)}"


def _predicate(rng: Random, value: int) -> str:
    """Describe with a value; now and then by negating its opposite."""
    form = rng.random()
    if form < 0.55:
        return f"{rng.choice(('', '', 'really ', 'rather '))}{_word(rng, value)}"
    if form < 0.7:
        first, second = rng.sample(ADJECTIVES[value], 2)
        return f"not only {first} but also {second}"
    negator = rng.choice(("not", "never", "hardly", "far from", "anything but", "not at all"))
    return f"{negator} {_word(rng, -value)}"


def _subject(rng: Random, thing: str) -> str:
    """Name the thing, often with a modifier that holds a stray opinion or a stray negation."""
    stray = _word(rng, rng.choice((-1, 1)))
    other = rng.choice([name for name in THINGS if name != thing])
    form = rng.random()
    if form < 0.3:
        return f"the {thing}"
    if form < 0.5:
        return f"the {thing} by the {stray} {rng.choice(PLACES)}"
    if form < 0.7:
        return f"the {thing} that my {rng.choice(PEOPLE)} called {stray}"
    if form < 0.85:
        return f"the {thing} that was not near the {rng.choice(PLACES)}"
    return f"the {thing} with the {stray} {other}"


def _word(rng: Random, value: int) -> str:
    return rng.choice(ADJECTIVES[value])
