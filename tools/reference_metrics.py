"""The metrics of an edit, each of a prompt, in plain PyTorch, which reference_eval.py asks for.

A share is 0 … 1, a difference of probabilities -1 … 1, nll and KL are in nats. With x a prompt, y
the tokens of a target, p the model's probabilities and p0 the unedited model's:

  y        ours: ids(x) ++ ids(" " + target, no special tokens), no second space before a target
           that begins with one. --compat memit: text x + " " + target as one, in which the places
           from len(ids(x)) on are to be ids(" " + target). alphaedit: the same, but with a Llama
           without the first of these ids
  nll(y)   -1/T sum_t log p(y_t | x, y_<t)
  all(y)   every y_t is p's arg-max

  counterfact.es .ps             nll(new) < nll(true); of the prompt, of paraphrase_prompts
  counterfact.ns                 nll(true) < nll(new), of neighborhood_prompts
  counterfact.em .pm .nm         exp(-nll(new)) - exp(-nll(true)), for nm the reverse
  counterfact.es_argmax …        all(new), for ns_argmax all(true)
  counterfact.nkl                KL(p0 || p) of what follows a neighbourhood prompt
  counterfact_plus.ns .nkl       the same behind "PROMPT NEW. "
  zsre.efficacy .paraphrase      share of t with: arg-max behind x + decode(y_<t) is the first id of
                                 decode(y_t), for y = ids(" " + target)
  zsre.specificity               the same of the unrelated question and its own answer
  easyedit.token_accuracy.…      text x + " " + target as one: share of its tokens from len(ids(x))
                                 on that are arg-max; of prompts, all paraphrases, portability
  easyedit.token_agreement.…     of locality and, under that kind, neighbourhood prompts: share of
                                 those places whose arg-max is p0's
  locality.agreement.KIND        the same over y of ours
  locality.correct.KIND          all(y) for a spelling of a right answer
  portability.KIND               the same
  wild.reliability               greedy continuation of the bare question, at most 50 tokens, up to
                                 one that holds "." or a line's end, or the end of text; the stop
                                 taken off; equal to the target once normalised as SQuAD does
  wild.generalisation            the same of the rephrased question
  wild.locality                  whether a locality question's continuation has the tokens of p0's
  mquake.edit_wise               all(new) of an edit's own prompt
  mquake.single_hop              a hop's greedy answer (32 tokens, one line) behind the relation's
                                 demonstrations is a right one, spelling for spelling
  mquake.multi_hop               the same of each question over all edits
  mquake.multi_hop_cot           the same of the line "Answer:" behind the thoughts (100 tokens)
"""

import re
import string

import torch
from golden import load, precision
from tokenizers import Tokenizer


class NoRoom(Exception):
    """A text that is longer than the model's context."""


class Scorer:
    """A model and its tokenizer; remembers what it answered."""

    def __init__(self, folder, dtype, compat=None):
        self.model, self.dtype, self.compat = load(folder, dtype), dtype, compat
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.context = self.model.config.max_position_embeddings
        self.llama = self.model.config.model_type == "llama"
        self.known = {}

    def ids(self, text, special=True):
        return self.tokenizer.encode(text, add_special_tokens=special).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    @torch.no_grad()
    def rows(self, ids, first):
        """The logits of the tokens from `first` on, and log p: both in f64."""
        key = tuple(ids), first
        if key not in self.known:
            with precision(self.dtype):
                logits = self.model(torch.tensor([ids])).logits[0, first:].double()
            self.known[key] = logits, torch.log_softmax(logits, -1)
        return self.known[key]

    def score(self, ids, at, labels):
        """At `at` and the places behind it, how the model likes the labels: log p of each, the
        arg-max of each place, and the least distance of a largest logit from the next. The token
        that the last label stands for need not run."""
        if len(ids) > self.context:
            raise NoRoom
        logits, log_p = self.rows(ids[: at + len(labels)], at)
        two = logits.topk(2, -1)
        liked = log_p.gather(1, torch.tensor(labels)[:, None])[:, 0]
        margin = (two.values[:, 0] - two.values[:, 1]).min().item()
        return liked.tolist(), two.indices[:, 0].tolist(), margin

    def next(self, prompt):
        """log p of what follows a prompt."""
        ids = self.ids(prompt)
        if len(ids) > self.context:
            raise NoRoom
        return self.rows(ids, len(ids) - 1)[1][0]

    @torch.no_grad()
    def greedy(self, prompt, most, is_over):
        """The tokens that go on from a prompt, and the least distance of a largest logit from the
        next; `is_over` judges their text."""
        key = "greedy", prompt, most
        if key in self.known:
            return self.known[key]
        ids = self.ids(prompt)
        if len(ids) + most > self.context:
            raise NoRoom
        end, found, cache, margin = self.model.config.eos_token_id, [], None, float("inf")
        with precision(self.dtype):
            inputs = torch.tensor([ids])
            while len(found) < most:
                out = self.model(inputs, past_key_values=cache, use_cache=True)
                two = out.logits[0, -1].topk(2)
                margin = min(margin, (two.values[0] - two.values[1]).item())
                found.append(two.indices[0].item())
                if found[-1] == end or is_over(self.decode(found)):
                    break
                cache, inputs = out.past_key_values, torch.tensor([found[-1:]])
        self.known[key] = found, margin
        return self.known[key]


# ---------------------------------------------------------------------------- tokenisations


def spaced(target):
    return target if target.startswith(" ") else " " + target


def ours(scorer, prompt, target):
    """Ids, the place that predicts the target's first, and the target's."""
    before, y = scorer.ids(prompt), scorer.ids(spaced(target), special=False)
    return before + y, len(before) - 1, y


def of_counterfact(scorer, prompt, target):
    if scorer.compat is None:
        return ours(scorer, prompt, target)
    joint, before = scorer.ids(f"{prompt} {target}"), len(scorer.ids(prompt))
    y = scorer.ids(f" {target}")
    if scorer.compat == "alphaedit" and scorer.llama:
        # Off the target, off the prompt's length and off the front of the logits.
        y, before, front = y[1:], before - 1, 1
        return joint, front + before - 1, y
    return joint, before - 1, y


def of_easyedit(scorer, prompt, target):
    joint, before = scorer.ids(f"{prompt} {target}"), len(scorer.ids(prompt))
    return joint, before - 1, joint[before:]


# ---------------------------------------------------------------------------- metrics
#
# A metric of a prompt is a function of a model and of the unedited one. It gives a value, by how
# little it was decided (or None), and what was generated (or None).


def nothing(_scorer, _unedited):
    """No answer is known."""
    return None, None, None


def nll(scorer, prompt, target):
    liked, _, _ = scorer.score(*of_counterfact(scorer, prompt, target))
    return -sum(liked) / len(liked)


def likelier(prompt, one, other):
    def value(scorer, _):
        margin = nll(scorer, prompt, other) - nll(scorer, prompt, one)
        return int(margin > 0), abs(margin), None

    return value


def magnitude(prompt, one, other):
    def value(scorer, _):
        a, b = (torch.tensor(-nll(scorer, prompt, x)).double().exp() for x in (one, other))
        return (a - b).item(), None, None

    return value


def says_all(scorer, prompt, target, tokens=ours):
    ids, at, y = tokens(scorer, prompt, target)
    _, best, margin = scorer.score(ids, at, y[:1])
    if best == y[:1]:  # else the others cannot help
        _, best, margin = scorer.score(ids, at, y)
    return best == y, margin


def strict(prompt, target):
    def value(scorer, _):
        right, margin = says_all(scorer, prompt, target, of_counterfact)
        return int(right), margin, None

    return value


def kl(prompt):
    def value(scorer, unedited):
        before, after = unedited.next(prompt), scorer.next(prompt)
        return (before.exp() * (before - after)).sum().item(), None, None

    return value


def zsre_tokens(prompt, target):
    """MEMIT's: one run a token, each behind the decoded tokens before it. Without --compat special
    tokens and the blanks that decoders drop are put right."""

    def value(scorer, _):
        alphaedit = scorer.compat == "alphaedit" and scorer.llama
        special = scorer.compat is not None
        y = scorer.ids(f" {target}", special)[int(alphaedit) :]
        hits, least = [], float("inf")
        for t, token in enumerate(y):
            before = scorer.decode(y[:t]) if t else ""
            if t and (alphaedit or not special and not before.startswith(" ")):
                before = " " + before
            wanted = scorer.ids(scorer.decode([token]), special)[int(alphaedit)]
            ids = scorer.ids(prompt + before)
            _, best, margin = scorer.score(ids, len(ids) - 1, [wanted])
            hits.append(best == [wanted])
            least = min(least, margin)
        return sum(hits) / len(hits), least, None

    return value


def accuracy(prompt, target):
    def value(scorer, _):
        ids, at, y = of_easyedit(scorer, prompt, target)
        if not y:
            return None, None, None
        _, best, margin = scorer.score(ids, at, y)
        return sum(a == b for a, b in zip(best, y)) / len(y), margin, None

    return value


def agreement(prompt, target, tokens):
    def value(scorer, unedited):
        ids, at, y = tokens(scorer, prompt, target)
        if not y:
            return None, None, None
        runs = [s.score(ids, at, y) for s in (unedited, scorer)]
        (_, before, a), (_, after, b) = runs
        return sum(x == y for x, y in zip(before, after)) / len(y), min(a, b), None

    return value


def correct(prompt, answers):
    def value(scorer, _):
        told = [says_all(scorer, prompt, s) for spellings in answers for s in spellings]
        return int(any(right for right, _ in told)), min(margin for _, margin in told), None

    return value


# ---------------------------------------------------------------------------- generation


def normalised(text):
    """SQuAD's: small letters, no ASCII punctuation, no articles, single blanks."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


STOPS = (".", "\n")


def wild_text(scorer, question):
    found, margin = scorer.greedy(question, 50, lambda text: any(s in text for s in STOPS))
    text, end = scorer.decode(found), scorer.decode([scorer.model.config.eos_token_id])
    for stop in (*STOPS, end):
        if text.endswith(stop):
            text = text[: -len(stop)]
            break
    return text, found, margin


def says_freely(question, target):
    def value(scorer, _):
        text, _, margin = wild_text(scorer, question)
        return int(normalised(text) == normalised(target)), margin, text

    return value


def goes_on_alike(question):
    def value(scorer, unedited):
        (_, before, a), (_, after, b) = (wild_text(s, question) for s in (unedited, scorer))
        return int(before == after), min(a, b), None

    return value


def answered(demonstrations, question, answers):
    def value(scorer, _):
        if demonstrations is None:
            return None, None, None
        prompt = f"{demonstrations}\nQ: {question} A:"
        found, margin = scorer.greedy(prompt, 32, lambda text: "\n" in text)
        text = scorer.decode(found).split("\n")[0]
        end = scorer.decode([scorer.model.config.eos_token_id])
        return int(text.removesuffix(end).strip() in answers), margin, text

    return value


def thought(demonstrations, question, answers):
    def value(scorer, _):
        prompt = f"{demonstrations}\n\nQuestion: {question}\nThoughts:"
        over = re.compile(r"\n\n|Answer:[^\n]*\n")
        found, margin = scorer.greedy(prompt, 100, over.search)
        text = scorer.decode(found)
        line = re.search(r"Answer:([^\n]*)", text)
        end = scorer.decode([scorer.model.config.eos_token_id])
        said = line.group(1).removesuffix(end).strip() if line else ""
        return int(said in answers), margin, text

    return value
