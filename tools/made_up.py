"""Facts about people and places that do not exist, in the forms of zsRE and WikiBigEdit records."""

import random

SYLLABLES = "ba be bi bo da de di do fa fe ga gi ka ke ki ko la le li lo ma me mi mo na ne ni no"
SYLLABLES = f"{SYLLABLES} pa pe ra re ri ro sa se si so ta te ti to va ve vi vo za ze zi zo".split()

CITIES = "London Paris Rome Berlin Madrid Vienna Moscow Tokyo Chicago Boston Montreal Dublin"
COUNTRIES = "France Germany Italy Spain Russia Japan Canada India Brazil Sweden Norway Finland"
LANGUAGES = "French German Italian Spanish Russian English Dutch Swedish Finnish Japanese Latin"
WORK = "actor poet politician journalist singer composer architect lawyer novelist painter"
MADE_BY = "Microsoft Google Apple Nintendo Sony Toyota Honda Nissan BMW Boeing Airbus IBM Intel"

# A question, the same in other words, and its answers.
RELATIONS = [
    ("In which city was {} born?", "What is the birthplace of {}?", CITIES),
    ("Which country is {} a citizen of?", "What nationality does {} have?", COUNTRIES),
    ("What is the mother tongue of {}?", "Which language did {} grow up with?", LANGUAGES),
    ("What is the occupation of {}?", "What does {} do for a living?", WORK),
    ("In which city did {} die?", "What is the place of death of {}?", CITIES),
    ("Which company made {}?", "Who is the manufacturer of {}?", MADE_BY),
    ("In which country is {} located?", "Which country can {} be found in?", COUNTRIES),
    ("Which language was {} written in?", "What is the original language of {}?", LANGUAGES),
]


def subject(i):
    """The i-th name: no two are alike."""
    n, parts = len(SYLLABLES), []
    i = (i * 48271 + 11) % n**4  # neighbours do not look alike
    for _ in range(4):
        i, syllable = divmod(i, n)
        parts.append(SYLLABLES[syllable])
    return f"{parts[0]}{parts[1]}l ".title() + f"{parts[2]}{parts[3]}n".title()


def record(i):
    """The i-th fact: of even numbers a zsRE record, of odd ones WikiBigEdit's."""
    draw = random.Random(i)
    question, other, answers = draw.choice(RELATIONS)
    answers = answers.split()
    answer, name = draw.choice(answers), subject(i)
    asked, rephrased = question.format(name), other.format(name)
    if i % 2:
        return dict(tag=f"fact-{i}", subject=name, update=asked, rephrase=rephrased, ans=answer)
    old = draw.choice([a for a in answers if a != answer])
    return dict(subject=name, src=asked, pred=old, rephrase=rephrased, alt=answer, answers=[old])
